"""Detections drawn over an image: boxes, names, scores, masks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from contagg.detection.batching import Detections
from contagg.detection.evaluation import masks_of
from contagg.figures import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, new_figure, percent, save_figure

COLOURS = (ORANGE, SKY, GREEN, "#F0E442", BLUE, VERMILION, PURPLE)
"""Light ones first, for the names are black; a class keeps its colour."""


def draw(axes: Axes, image: np.ndarray, found: Detections, names: Sequence[str], least_score: float) -> int:
    """Draw an image uint8 (H, W, 3) with what was found, in its pixels, at `least_score` or more; returns how much."""
    chosen = {key: value[found["scores"] >= least_score].cpu() for key, value in found.items()}
    canvas = image.astype(np.float32) / 255
    masks = list(masks_of(chosen, image.shape[:2])) if "masks" in chosen else []
    colours = [COLOURS[label % len(COLOURS)] for label in chosen["labels"].tolist()]
    for mask, colour in reversed(list(zip(masks, colours, strict=False))):
        canvas[mask] = 0.5 * canvas[mask] + 0.5 * np.array(to_rgb(colour))
    axes.imshow(canvas, interpolation="nearest")
    entries = zip(chosen["boxes"].tolist(), chosen["labels"].tolist(), chosen["scores"].tolist(), colours, strict=True)
    for (left, top, right, bottom), label, value, colour in entries:
        axes.add_patch(Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, color=colour, lw=1.4))
        axes.text(
            left,
            max(top - 1, 0),
            f"{names[label]} {percent(value, 0)}",
            fontsize=6.5,
            va="bottom",
            color="black",
            clip_on=True,
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.8, "alpha": 0.85},
        )
    axes.set_axis_off()
    return len(colours)


def save_drawing(
    path: Path, images: Sequence[np.ndarray], found: Sequence[Detections], names: Sequence[str], least_score: float
) -> None:
    """One picture of several images side by side, as many in a row as make it about twice as wide as high."""
    columns = max(1, round((2 * len(images)) ** 0.5))
    rows = -(-len(images) // columns)
    size = 2.6 * columns, 2.6 * rows
    if len(images) == 1:  # of its shape, but for a strip, which would leave no room to draw or need too much
        size = 7.0, min(max(7.0 * images[0].shape[0] / images[0].shape[1], 1.0), 28.0)
    figure = new_figure(*size)
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in cells[len(images) :]:
        axes.set_axis_off()
    for axes, image, detections in zip(cells, images, found, strict=False):
        draw(axes, image, detections, names, least_score)
    save_figure(figure, path)
