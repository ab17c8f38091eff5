"""The pictures of a comparison: score against milliseconds, and score by epoch."""

import math
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from matplotlib.transforms import Bbox
from scipy.optimize import isotonic_regression

from contagg.figures import BLUE, GREY, PALETTE, VERMILION, new_figure, outside, overlap, plain_axes
from contagg.lab.findings import Curve, Findings, Line, is_share
from contagg.lab.intervals import Interval, Pooled, interval

_BLACK = "#000000"
_FADED = "#b4b4b4"
_MOST_COLOURS = 6
_LETTERS = 8
"""Points of names at their marks."""
_WIDEST = 26
"""Letters of a line of a name."""
_RINGS = (9, 16, 26, 40, 56, 74)
"""Points from a mark at which its name may begin; from the third on a line leads to it."""
_TURNS = [(math.cos(turn), math.sin(turn)) for turn in np.linspace(0, 2 * np.pi, 16, endpoint=False)]
_GAP = 1.5
"""Points between two names."""


def score_against_time(findings: Findings) -> Figure:
    """A mark an arm with its interval: milliseconds of a batch, or multiply-adds where no time was measured.

    Colours say whether an arm is above or below the first one; grey ones are within the noise. Intervals are by one
    noise for all arms where there is one, as in `by_epoch`: grey ones have the first arm's then, and are not drawn.
    """
    lines, about, share = findings.lines, findings.about, is_share(findings.metric)
    timed = bool(about) and all(not math.isnan(line.inference_ms) for line in lines)
    scale = 100 if share else 1
    figure = new_figure(9, 6)
    axes = figure.subplots()
    points, bars = [], []
    for number, line in enumerate(lines):
        x, y = line.inference_ms if timed else line.multiply_adds / 1e6, scale * line.mean
        colour = _BLACK if number == 0 else _colour(line)
        found = interval(list(findings.last[line.arm].values()), findings.pooled)
        if not math.isnan(found.low) and (colour != GREY or not findings.pooled):
            low, high = scale * found.low, scale * found.high
            bars.append((x, low, high))
            axes.plot([x, x], [low, high], color=colour, linewidth=1.2, alpha=0.35, zorder=1)
        axes.plot(x, y, "D" if number == 0 else "o", color=colour, markersize=6, zorder=3)
        points.append((line.arm, x, y, colour))
    _in_decades(axes, [x for _, x, _, _ in points])
    batch = (
        f"ms, inference of a batch of {about['batch']}, {about['device']}"
        if timed
        else "million multiply-adds of an image"
    )
    noise = "by one noise for all (grey: alike)" if findings.pooled else "intervals"
    colours = f"orange above {lines[0].arm} (diamond), blue below, grey within the noise; lines: 95 % {noise}"
    plain_axes(axes, batch, _named(findings.metric, share), colours)
    axes.margins(x=0.1)
    _frame(axes, [scale * line.mean for line in lines], [end for _, *ends in bars for end in ends])
    _name(figure, axes, points, bars)
    return figure


def _in_decades(axes: Axes, xs: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.tick_params(axis="x", which="both", labelsize=9)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if max(xs) < 10 * min(xs):  # a log axis of less than a decade names too few of its ticks
        axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axes.xaxis.set_minor_formatter(NullFormatter())


def _frame(axes: Axes, means: Sequence[float], ends: Sequence[float] = ()) -> None:
    """Room for all means, and for the ends of intervals but where those of few seeds reach beyond all that is seen."""
    means = [mean for mean in means if math.isfinite(mean)]  # a loss may have been infinite in between
    low, high = min(means), max(means)
    span = high - low or 1
    reached = [end for end in ends if low - span < end < high + span]
    low, high = min([low, *reached]), max([high, *reached])
    axes.set_ylim(low - 0.06 * span, high + 0.06 * span)


def _colour(line: Line) -> str:
    if line.verdict in ("", "noise") or math.isnan(line.difference):
        return GREY
    return VERMILION if line.difference > 0 else BLUE


def _named(metric: str, share: bool) -> str:
    return f"{metric.replace('_', ' ')} at the last epoch{' (%)' if share else ''}"


def _name(
    figure: Figure,
    axes: Axes,
    points: Sequence[tuple[str, float, float, str]],
    bars: Sequence[tuple[float, float, float]],
) -> None:
    """Write each name near its mark (x, y), where it hides no name, mark or bar (x, low, high).

    A thin line leads to a name that is farther away.
    """
    figure.draw_without_rendering()  # settles the layout, which distances in pixels depend on
    pixel = figure.dpi / 72
    marks = {name: axes.transData.transform((x, y)) for name, x, y, _ in points}
    taken = [Bbox.from_bounds(x - 4 * pixel, y - 4 * pixel, 8 * pixel, 8 * pixel) for x, y in marks.values()]
    for x, *ends in bars:
        (at, low), (_, high) = axes.transData.transform([(x, end) for end in ends])
        taken.append(Bbox.from_extents(at - pixel, low, at + pixel, high))
    frame = axes.get_window_extent()
    crowd = {name: sum(math.dist(at, other) < 60 * pixel for other in marks.values()) for name, at in marks.items()}
    for name, x, y, colour in sorted(points, key=lambda point: -crowd[point[0]] * len(point[0])):
        written = fill(name, _WIDEST, break_long_words=False)
        text = axes.text(x, y, written, fontsize=_LETTERS, color=colour, zorder=4)
        size = text.get_window_extent()
        text.remove()
        ways = [(ring, turn) for ring in _RINGS for turn in _TURNS]
        boxes = [_placed(marks[name], size.width, size.height, ring * pixel, turn) for ring, turn in ways]
        padded = [box.padded(_GAP * pixel) for box in boxes]
        far = np.array([ring * pixel for ring, _ in ways])
        best = int(np.argmin(overlap(padded, taken) + 10 * outside(boxes, frame) + far))
        taken.append(boxes[best])
        offset = (boxes[best].x0 - marks[name][0]) / pixel, (boxes[best].y0 - marks[name][1]) / pixel
        _write(axes, written, (x, y), offset, colour, led=ways[best][0] >= _RINGS[2])


def _write(
    axes: Axes, name: str, mark: tuple[float, float], offset: tuple[float, float], colour: str, *, led: bool
) -> None:
    """A name whose lower left corner lies `offset` points from its mark."""
    leads = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.6, "shrinkA": 0, "shrinkB": 4}
    axes.annotate(
        name,
        mark,
        xytext=offset,
        textcoords="offset points",
        ha="left",
        va="bottom",
        fontsize=_LETTERS,
        color=colour,
        arrowprops=leads if led else None,
        zorder=4,
    )


def _placed(mark: Any, width: float, height: float, away: float, turn: tuple[float, float]) -> Bbox:
    """The box of a name whose nearest point lies `away` from the mark in a direction."""
    x, y = mark[0] + away * turn[0], mark[1] + away * turn[1]
    left = x - width * (1 - turn[0]) / 2
    return Bbox.from_bounds(left, y - height * (1 - turn[1]) / 2, width, height)


def by_epoch(findings: Findings) -> Figure:
    """The mean over seeds of each arm by epoch with a band of 95 %; names stand where the lines end.

    Of more than six arms only the first, the best and the worst have colours and bands. Bands are by one noise for all
    arms where there is one: of few seeds of one arm alone they would be wider than all that is to be seen.
    """
    share = is_share(findings.metric)
    scale = 100 if share else 1
    epochs = {name: next(iter(own.values())).epochs for name, own in findings.curves.items()}
    curves = findings.curves
    bands = _bands(findings.curves)
    means = {name: [scale * of.mean for of in band] for name, band in bands.items()}
    shown = _coloured(means)
    figure = new_figure(8.4, max(4.4, 1.2 + 0.15 * len(curves)))
    axes = figure.subplots()
    for name in sorted(curves, key=lambda name: name in shown):
        colour = shown.get(name, _FADED)
        front = name in shown
        mark = "o" if len(means[name]) < 3 else None
        width, level = (1.8, 3) if front else (0.9, 2)
        axes.plot(epochs[name], means[name], color=colour, linewidth=width, marker=mark, zorder=level)
        if front and len(curves[name]) > 1:
            low, high = [scale * of.low for of in bands[name]], [scale * of.high for of in bands[name]]
            axes.fill_between(epochs[name], low, high, color=colour, alpha=0.13, linewidth=0, zorder=1)
    _frame(axes, [value for values in means.values() for value in values])
    noise = "one noise for all arms" if findings.pooled else "each arm's own runs"
    named = _named(findings.metric, share).replace(" at the last epoch", "")
    plain_axes(axes, "epoch", named, f"means over seeds; bands: 95 % by {noise}", whole=True)
    _name_ends(figure, axes, {name: (epochs[name][-1], means[name][-1]) for name in curves}, shown)
    return figure


def _bands(curves: Mapping[str, Mapping[int, Curve]]) -> dict[str, list[Interval]]:
    """Of each arm the mean and its interval at each of its epochs."""
    length = min(len(curve.values) for own in curves.values() for curve in own.values())
    noises = [
        Pooled.of([{seed: curve.values[at] for seed, curve in own.items()} for own in curves.values()])
        for at in range(length)
    ]
    bands = {}
    for name, own in curves.items():
        by_epoch = list(zip(*(curve.values for curve in own.values()), strict=True))
        pooled = [*noises, *[None] * (len(by_epoch) - length)]
        bands[name] = [interval(of, noise) for of, noise in zip(by_epoch, pooled, strict=True)]
    return bands


def _coloured(means: Mapping[str, Sequence[float]]) -> dict[str, str]:
    """The arms with a colour: all of a few, else the first, the best three and the worst two."""
    names = list(means)
    if len(names) > _MOST_COLOURS:
        order = sorted(names[1:], key=lambda name: -means[name][-1])
        names = [names[0], *order[:3], *order[-2:]]
    return dict(zip(names, (_BLACK, *PALETTE), strict=False))


def _name_ends(figure: Figure, axes: Axes, ends: Mapping[str, tuple[float, float]], colours: Mapping[str, str]) -> None:
    """Names to the right of the lines' ends, moved apart until none hides another."""
    figure.draw_without_rendering()
    low, high = axes.get_ylim()
    tall = (high - low) / axes.get_window_extent().height * figure.dpi / 72  # a point, in the unit of y
    letters = _LETTERS if len(ends) <= 24 else 7
    step = 1.15 * letters * tall
    names = sorted(ends, key=lambda name: ends[name][1])
    heights = _apart([ends[name][1] for name in names], step, high)
    for name, height in zip(names, heights, strict=True):
        colour = colours.get(name, GREY)
        axes.annotate(
            name,
            ends[name],
            xytext=(1.03, (height - low) / (high - low)),
            textcoords="axes fraction",
            va="center",
            fontsize=letters,
            color=colour,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.5,
                "alpha": 0.5,
                "shrinkA": 1,
                "shrinkB": 2,
                "relpos": (0, 0.5),
            },
        )


def _apart(heights: Sequence[float], step: float, top: float) -> list[float]:
    """Ascending heights moved as little as leaves `step` between each two (least squares), and none above `top`."""
    steps = step * np.arange(len(heights))
    moved = isotonic_regression(np.asarray(heights) - steps).x + steps
    highest = top - step * np.arange(len(heights))[::-1]
    return np.minimum(moved, highest).tolist()
