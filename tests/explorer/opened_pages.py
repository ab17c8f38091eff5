"""Pages of layers made up for a test, and a browser that has them open."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from selenium import webdriver

from contagg.explorer.building import Explored
from contagg.explorer.page import Page
from contagg.inspect.forms import RecordedLayer, Recording, Unshown
from contagg.inspect.measures import Measures

MEASURES = Measures(distance=0.1, within3=0.5, entropy=0.2, rank=0.3, toeplitz=0.4, sinks=[(1, 2, 11.0)], registers=0.0)


def photograph(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


def page_with(
    layers: Sequence[RecordedLayer], size: tuple[int, int], unshown: Sequence[Unshown] = (), models: int = 1
) -> Page:
    """A page of given layers, whose numbers are made up."""
    some = [
        Explored(
            name=f"model {index + 1}",
            about="",
            untrained=False,
            recording=Recording(layers=layers, unshown=unshown),
            measures=[MEASURES] * len(layers),
            fields=[],
            rounding=[0.0] * len(layers),
            size=size,
        )
        for index in range(models)
    ]
    return Page(image=photograph(*size), models=some)


class Browser:
    """Chromium without a window; knows what the page asked the network for."""

    def __init__(self, driver: webdriver.Chrome, folder: Path) -> None:
        self.driver, self.folder = driver, folder

    def open(self, page: Page, *, width: int = 1200, height: int = 900, dark: bool = False) -> "Browser":
        """A page from a file, wide and high as a screen, once it is ready."""
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(page.save(self.folder / "a page.html").as_uri())
        assert self.later("contagg.ready.then(() => done('ready'), (error) => done(String(error)))") == "ready"
        return self

    def __call__(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(f"return {script}", *arguments)

    def later(self, script: str, *arguments: Any) -> Any:
        """What `script` calls `done` with."""
        return self.driver.execute_async_script(f"const done = arguments[arguments.length - 1]; {script}", *arguments)

    def matrix(self, layer: int, gathering: int, gathered: int, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """A as the page's rows and as its columns have it."""
        rows, columns = (
            self(f"[...Array({count}).keys()].map((at) => contagg.{way}({layer}, at, arguments[0]))", options)
            for way, count in (("row", gathering), ("column", gathered))
        )
        return torch.tensor(rows, dtype=torch.float64), torch.tensor(columns, dtype=torch.float64).T
