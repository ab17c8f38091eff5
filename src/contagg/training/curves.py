"""The numbers of runs as pictures: one run's curves, and several runs compared (Figure 1 left)."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from contagg.figures import BLUE, PALETTE, new_figure, percent, plain_axes, save_figure
from contagg.training.rows import Axis, Columns, metric_of, read_metrics
from contagg.training.run_folder import RAW, RunFolder

_PARTS = ("train", "validation")


def draw_run(folder: str | Path) -> Path:
    """Draw `figures/curves.png` of a run: a panel a kind of number."""
    path = RunFolder(folder).figures / "curves.png"
    save_figure(run_figure(read_metrics(folder), Path(folder).name), path)
    return path


def run_figure(columns: Columns, title: str) -> Figure:
    """What validation found first; columns of one kind, such as train_loss and validation_loss, share a panel."""
    panels: dict[str, Columns] = {}
    for name in sorted(columns, key=lambda name: (name == "learning_rate", "loss" in name)):
        part, _, rest = name.partition("_")
        kind = (rest if part in _PARTS else name).removesuffix(RAW)
        panels.setdefault(kind, {})[name] = columns[name]
    figure = new_figure(4.2 * len(panels), 3.6, title)
    for axes, (kind, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        share = kind.startswith("accuracy")
        for colour, (name, points) in zip(PALETTE, curves.items(), strict=False):
            _draw(axes, points, colour, name.replace("_", " "), share)
        plain_axes(axes, "epoch", _quantity(kind, share), whole=True)
        if len(curves) > 1:
            axes.legend(frameon=False, fontsize=9)
        if share:
            _mark_best(axes, next(iter(curves.values())))
    return figure


def compare_figure(runs: Mapping[str, Sequence[tuple[int, float]]], metric: str, axis: Axis = "epoch") -> Figure:
    """One curve a run, best at the end first; the legend says its last value, and that it is the last."""
    share = metric.startswith("accuracy")
    figure = new_figure(6.4, 4.4)
    axes = figure.subplots()
    order = sorted(runs.items(), key=lambda run: -run[1][-1][1])
    for number, (name, points) in enumerate(order):
        style = "-" if number < len(PALETTE) else "--"
        last = percent(points[-1][1]) if share else f"{points[-1][1]:.4g}"
        _draw(axes, points, PALETTE[number % len(PALETTE)], f"{name}: {last}", share, style)
    plain_axes(axes, axis, _quantity(metric, share), whole=True)
    ends = {points[-1][0] for points in runs.values()}
    where = f"{axis} {ends.pop()}" if len(ends) == 1 else f"the last {axis} of each"
    title = f"{_quantity(metric, False)} at {where}"
    axes.legend(frameon=False, fontsize=9, title=title, title_fontsize=9, alignment="left")
    return figure


def compare(options: argparse.Namespace) -> None:
    """`contagg curves RUN...`: draws the metric of all runs in one picture."""
    runs = metric_of(options.runs, options.metric, options.against)
    save_figure(compare_figure(runs, options.metric, options.against), Path(options.output))
    print(options.output)


def _draw(
    axes: Axes, points: Sequence[tuple[int, float]], colour: str, label: str, share: bool, style: str = "-"
) -> None:
    epochs, values = zip(*points, strict=True)
    scaled = [100 * value for value in values] if share else list(values)
    marker = "o" if len(points) < 3 else None
    axes.plot(epochs, scaled, style, color=colour, label=label, linewidth=1.6, marker=marker)


def _quantity(metric: str, share: bool) -> str:
    return metric.replace("_", " ") + (" (%)" if share else "")


def _mark_best(axes: Axes, points: Sequence[tuple[int, float]]) -> None:
    epoch, value = max(points, key=lambda point: point[1])
    axes.plot([epoch], [100 * value], "o", color=BLUE, markersize=6)
    axes.set_title(f"best {percent(value, 2)} at epoch {epoch}", fontsize=10)
