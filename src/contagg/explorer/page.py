"""The one file: photograph, numbers and program, which opens by a double click and asks nobody for anything."""

import base64
import hashlib
import html
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from matplotlib.colors import Colormap
from PIL import Image

from contagg.errors import UserError, printable
from contagg.explorer.building import Explored, packed
from contagg.explorer.packing import Store
from contagg.figures import BLUE, GREEN, SIGNED, UNSIGNED, VERMILION
from contagg.files import write_output

SCRIPTS = ("scores.js", "forms.js", "layer.js", "picture.js", "panel.js", "details.js", "page.js")
SHARPEST = 1280
"""Pixels along the longer side of the photograph, where it has as many."""
COLOURS = 64
"""Of a scale, as the page has it."""


@dataclass(frozen=True, eq=False)
class Page:
    """What `contagg.explore` gives: a page for a browser, the same inside a notebook, and its numbers.

    Attributes:
        image: As the first model was shown it, upright and whole.
        models: One, or two and more side by side.
        note: At the page's foot, such as whose photograph it is.
    """

    image: Image.Image
    models: Sequence[Explored]
    note: str = ""

    @cached_property
    def html(self) -> str:
        """The whole file."""
        store = Store()
        data = {
            "size": self.models[0].size,
            "marker": GREEN,
            "palettes": {"signed": _colours(SIGNED), "unsigned": _colours(UNSIGNED)},
            "models": [packed(model, store) for model in self.models],
        }
        style = Template(_text("page.css")).substitute(accent=GREEN, dynamic=VERMILION, static=BLUE, warn=VERMILION)
        script = "\n".join(_text(name) for name in SCRIPTS)
        title = " and ".join(model.name for model in self.models)
        return Template(_text("page.html")).substitute(
            policy=_policy(script, style),
            title=html.escape(f"{title}: what mixes with what"),
            style=style,
            script=script,
            image=_as_address(self.image, self.models[0].size),
            data=_embedded(data),
            store=store.text(),
            footer=html.escape(self._footer()),
        )

    def save(self, path: str | Path) -> Path:
        """Write the file, whole or not at all. UserError for another ending than .html, or an unusable folder."""
        path = Path(path)
        if path.suffix != ".html":
            raise UserError(f"{str(path)!r} must end in .html")
        write_output(path, self.html.encode())
        return path

    def numbers(self) -> list[dict[str, Any]]:
        """Of each model its layers' numbers, agreements and what cannot be shown: what `--json` writes."""
        return [model.numbers() for model in self.models]

    def _repr_html_(self) -> str:
        """In a notebook: the page in a frame of its own, which may run its program and nothing else."""
        framed = html.escape(self.html, quote=True)
        return f'<iframe sandbox="allow-scripts" style="width:100%;height:900px;border:0" srcdoc="{framed}"></iframe>'

    def _footer(self) -> str:
        rounding = max((moved for model in self.models for moved in model.rounding), default=0.0)
        height, width = self.models[0].size
        note = f"{printable(self.note)} " if self.note else ""
        return (
            f"{note}Colour is times uniform: 1 is what each token would give if all gave alike. The network saw the "
            f"image in {height} x {width} pixels. Rows and columns are computed here, of queries, keys and kernels; "
            f"where these are kept in 8 bits, rows move by {100 * rounding:.2g} % at most in those compared. Nothing "
            "is fetched."
        )


def _text(name: str) -> str:
    return resources.files("contagg.explorer").joinpath("page", name).read_text(encoding="utf-8")


def _colours(scale: Colormap) -> list[list[int]]:
    return (255 * scale(np.linspace(0, 1, COLOURS))[:, :3]).round().astype(int).tolist()


def _embedded(data: dict[str, Any]) -> str:
    """JSON that ends no script, whatever a name in it says."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(script: str, style: str) -> str:
    """What a browser lets the page do: run the program and use the style that are in it, show the image, no more."""
    program, look = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, style))
    return (
        f"default-src 'none'; script-src 'sha256-{program}'; style-src 'sha256-{look}' 'unsafe-hashes'; img-src data:; "
        "connect-src 'none'; form-action 'none'; base-uri 'none'"
    )


def _as_address(image: Image.Image, size: Sequence[int]) -> str:
    """A JPEG in the shape that the network saw and as sharp as it may be, as an address that holds it."""
    scale = max(1.0, min(max(image.size), SHARPEST) / max(size))
    shape = (round(scale * size[1]), round(scale * size[0]))
    content = io.BytesIO()
    image.convert("RGB").resize(shape, Image.Resampling.LANCZOS).save(content, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
