"""Accuracy as reported against measured images/s."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter
from matplotlib.transforms import Bbox

from contagg.figures import BLUE, VERMILION, new_figure, outside, overlap, plain_axes

OURS, OTHERS = VERMILION, BLUE
_MARK = 7
"""Points across a mark."""
_SIDES = ((1, 0), (0, 1), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))
"""Where a name may stand at its mark: right, above, below, left, in corners; of equally good ones the first."""
_NAMES_BY_LINES = 9
"""How much worse hiding a name is than hiding a line."""


def accuracy_against_speed(points: Sequence[Mapping[str, Any]], device: str) -> Figure:
    """A line a network: its plain variant as a hollow mark, its fastest as a filled one, with its name.

    Args:
        points: `model`, `variant`, `precision`, `images_per_second` and `reported_top1` of each measurement.
        device: For the title.
    """
    figure = new_figure(9, 6)
    axes = figure.subplots()
    names, taken = [], []
    for model in dict.fromkeys(point["model"] for point in points):
        own = [point for point in points if point["model"] == model]
        fastest = max(own, key=lambda point: point["images_per_second"])
        plain = next((point for point in own if point["variant"] == "plain"), fastest)
        colour = OURS if model.startswith("container") else OTHERS
        slow, fast, height = plain["images_per_second"], fastest["images_per_second"], fastest["reported_top1"]
        axes.plot([slow, fast], [height] * 2, color=colour, linewidth=1.5, alpha=0.5)
        axes.plot(slow, height, "o", color=colour, markerfacecolor="white", markersize=_MARK)
        axes.plot(fast, height, "o", color=colour, markersize=_MARK)
        names.append((model, colour))
        taken.append((slow, fast, height))
    plain_axes(
        axes, "images/s (hollow: as it is, filled: its fastest variant)", "ImageNet top-1 as reported, %", device
    )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.12, y=0.12)
    _name(figure, axes, names, taken)
    return figure


def _name(
    figure: Figure,
    axes: Axes,
    names: Sequence[tuple[str, str]],
    taken: Sequence[tuple[float, float, float]],
) -> None:
    """Write each name at its line (x, x, y): on that side of its end, or before it, where it hides least of others."""
    figure.draw_without_rendering()  # settles the layout, which distances in pixels depend on
    half = _MARK / 2 * figure.dpi / 72
    ends = [axes.transData.transform([(slow, y), (fast, y)]) for slow, fast, y in taken]
    lines, boxes = [Bbox([left - half, right + half]) for left, right in ends], list[Bbox]()
    frame = axes.get_window_extent()
    for (name, colour), (slow, fast, y) in zip(names, taken, strict=True):
        tries = [_at(axes, name, (fast, y), side, colour) for side in _SIDES]
        tries.append(_at(axes, name, (slow, y), (-1, 0), colour))
        extents = [text.get_window_extent() for text in tries]
        names_hidden, lines_hidden = overlap(extents, boxes), overlap(extents, lines)
        best = int(np.argmin(lines_hidden + _NAMES_BY_LINES * names_hidden + outside(extents, frame)))
        boxes.append(extents[best])
        for number, text in enumerate(tries):
            if number != best:
                text.remove()


def _at(axes: Axes, name: str, mark: tuple[float, float], side: tuple[int, int], colour: str) -> Annotation:
    right, up = side
    return axes.annotate(
        name,
        mark,
        xytext=(right * _MARK, up * _MARK),
        textcoords="offset points",
        ha={1: "left", 0: "center", -1: "right"}[right],
        va={1: "bottom", 0: "center", -1: "top"}[up],
        fontsize=8,
        color=colour,
    )
