"""Accuracy as reported against measured images/s."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from contagg.figures import BLUE, VERMILION, new_figure, plain_axes

OURS, OTHERS = VERMILION, BLUE
_MARK = 7
"""Points across a mark."""
_SIDES = {"right": (1, 0), "above": (0, 1), "below": (0, -1), "left": (-1, 0)}
"""Where a name may stand beside its mark, in the order in which they are tried."""


def accuracy_against_speed(points: Sequence[Mapping[str, Any]], device: str) -> Figure:
    """A line a network: its plain variant as a hollow mark, its fastest as a filled one, with its name.

    Args:
        points: `model`, `variant`, `precision`, `images_per_second` and `reported_top1` of each measurement.
        device: For the title.
    """
    figure = new_figure(8, 5)
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
        names.append((model, fast, height, colour))
        taken.append((slow, fast, height))
    plain_axes(
        axes, "images/s (hollow: as it is, filled: its fastest variant)", "ImageNet top-1 as reported, %", device
    )
    axes.margins(x=0.12, y=0.12)
    _name(axes, names, taken)
    return figure


def _name(
    axes: Axes, names: Sequence[tuple[str, float, float, str]], taken: Sequence[tuple[float, float, float]]
) -> None:
    """Write each name at its mark (x, y), on the side where it hides least of lines (x, x, y) and of other names."""
    axes.figure.draw_without_rendering()  # settles the layout, which distances in pixels depend on
    half = _MARK / 2 * axes.figure.dpi / 72
    ends = [axes.transData.transform([(slow, y), (fast, y)]) for slow, fast, y in taken]
    boxes = [Bbox([left - half, right + half]) for left, right in ends]
    for name, x, y, colour in names:
        tries = {}
        for side, (right, up) in _SIDES.items():
            text = axes.annotate(
                name,
                (x, y),
                xytext=(right * _MARK, up * _MARK),
                textcoords="offset points",
                ha={1: "left", 0: "center", -1: "right"}[right],
                va={1: "bottom", 0: "center", -1: "top"}[up],
                fontsize=8,
                color=colour,
            )
            tries[side] = (text, text.get_window_extent())
        frame = axes.get_window_extent()
        best = min(tries, key=lambda side: _hidden(tries[side][1], boxes) + _outside(tries[side][1], frame))
        boxes.append(tries[best][1])
        for side, (text, _) in tries.items():
            if side != best:
                text.remove()


def _hidden(box: Bbox, others: Sequence[Bbox]) -> float:
    common = (Bbox.intersection(box, other) for other in others)
    return sum(part.width * part.height for part in common if part is not None)


def _outside(box: Bbox, frame: Bbox) -> float:
    inside = Bbox.intersection(box, frame)
    return box.width * box.height - (inside.width * inside.height if inside is not None else 0)
