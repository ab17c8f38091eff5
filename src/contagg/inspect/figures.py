"""Figures of affinities: what a position gathers from, over the image."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from contagg.errors import UserError
from contagg.files import save_figure
from contagg.inspect.gathering import Gathering, Head, Map, gather
from contagg.inspect.overlay import colour_bar, draw_image, draw_overlay, mark, zoom
from contagg.inspect.view import CENTRE, Position, View, look

MOST_ROWS = 24
_COLUMNS = ("dynamic", "dynamic 2", "static", "static 2", "mixed")
_PANEL = 2.6
"""Inches."""


def draw_affinity(
    model: nn.Module,
    image: Image.Image,
    preprocessing: Mapping[str, Any],
    path: str | Path,
    *,
    at: Position = CENTRE,
    stages: Sequence[int] | None = None,
    blocks: Sequence[int] | None = None,
    heads: Sequence[Head] = ("mean",),
    size: int | None = None,
) -> list[Gathering]:
    """Draw what a position of an image gathers from, and return the numbers.

    A row a chosen head; columns: the image with the position's token, then the dynamic, the static and the mixed map.

    Args:
        image: In mode L or RGB.
        preprocessing, size: See `view.look`.
        path: Of the figure; its ending says the format.
        at: Row and column: whole numbers are pixels of the image from 0, fractions are parts of its height and width.
        stages, blocks, heads: See `gathering.gather`.

    Raises:
        UserError: a position, stage, block or head that does not exist, a model without affinities, too many rows.
    """
    view = look(model, image, preprocessing, size)
    gatherings = gather(model, view, at, stages=stages, blocks=blocks, heads=heads)
    save_figure(affinity_figure(view, gatherings), Path(path))
    return gatherings


def affinity_figure(view: View, gatherings: Sequence[Gathering]) -> Figure:
    """The figure of `draw_affinity`. UserError for more rows than a figure can show."""
    if len(gatherings) > MOST_ROWS:
        raise UserError(
            f"a figure of {len(gatherings)} rows is too long; choose stages, blocks and heads for {MOST_ROWS}"
        )
    present = {name for gathering in gatherings for name in gathering.maps}
    mixtures = any(len(gathering.maps) > 2 for gathering in gatherings)
    names = [name for name in _COLUMNS if name in present and (mixtures or name != "mixed")]
    height = _PANEL * min(max(view.size[0] / view.size[1], 0.5), 2.0) + 0.45
    size = ((1 + len(names)) * (_PANEL + 0.45), len(gatherings) * height + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle("What the marked token gathers from (red adds, blue subtracts)", fontsize=11)
    grid = figure.subplots(len(gatherings), 1 + len(names), squeeze=False)
    for axes, gathering in zip(grid, gatherings, strict=True):
        _draw_position(axes[0], view, gathering)
        for panel, name in zip(axes[1:], names, strict=True):
            _draw_map(panel, view, gathering, name)
    return figure


def _draw_position(axes: Axes, view: View, gathering: Gathering) -> None:
    draw_image(axes, view.image, view.size)
    mark(axes, gathering.row, gathering.column, gathering.stride)
    layer, count = gathering.layer, gathering.heads
    rows, columns = layer.grid
    heads = f"head {gathering.head} of {count}" if gathering.head != "mean" else f"mean of {count} heads"
    axes.set_title(f"{layer.label}\n{rows} x {columns} tokens, {heads}", fontsize=9)


def _draw_map(axes: Axes, view: View, gathering: Gathering, name: str) -> None:
    terms = [term for term in gathering.maps if term != "mixed"]
    if name not in gathering.maps or (name == "mixed" and len(terms) == 1):
        axes.set_axis_off()
        text = f"{terms[0]} alone" if name == "mixed" else f"no {name} part"
        axes.text(0.5, 0.5, text, ha="center", va="center", color="#999999", fontsize=9, transform=axes.transAxes)
        return
    shown = gathering.maps[name]
    colour_bar(axes, draw_overlay(axes, shown.values, gathering.stride, view.image, view.size))
    zoom(axes, shown.values, gathering.row, gathering.column)
    mark(axes, gathering.row, gathering.column, gathering.stride)
    axes.set_title(_title(terms, name, shown), fontsize=9)


def _title(terms: list[str], name: str, shown: Map) -> str:
    text = name if name != "mixed" else f"α {terms[0]} + β {terms[1]}"
    text = f"mean |{text}|" if shown.sizes else text
    if name == "mixed":
        return f"mixed: {text}"
    return text if len(terms) == 1 else f"{text}, {'αβ'[terms.index(name)]} = {shown.weight:.3g}"
