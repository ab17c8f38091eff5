"""The numbers of runs as pictures: one run's curves, and several runs compared (Figure 1 left)."""

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from contagg.errors import UserError, nearest
from contagg.figures import BLUE, PALETTE, new_figure, percent, plain_axes, save_figure
from contagg.training.run_folder import RAW, RunFolder

Axis = Literal["epoch", "step"]
Columns = dict[str, list[tuple[int, float]]]
"""A metric's name -> (epoch or step, value) of the epochs that have it."""

_NOT_CURVES = ("epoch", "step")
_PARTS = ("train", "validation")


def read_metrics(folder: str | Path, axis: Axis = "epoch") -> Columns:
    """The columns of a run's `metrics.csv`. UserError if there is no run or no epoch."""
    path = RunFolder(folder).metrics
    if not path.is_file():
        raise UserError(f"{folder} is no run folder: it has no {path.name}")
    columns: Columns = {}
    try:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if name not in _NOT_CURVES and value:
                        columns.setdefault(name, []).append((int(row[axis]), float(value)))
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{path} is no table of metrics: {error}") from error
    if not columns:
        raise UserError(f"{path} holds no epoch yet")
    return columns


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
    runs = {}
    for folder in options.runs:
        columns = read_metrics(folder, options.against)
        if options.metric not in columns:
            near = nearest(options.metric, columns)
            raise UserError(f"{folder} has no metric {options.metric!r}.{near} It has {', '.join(columns)}")
        name = Path(folder).resolve().name
        runs[name if name not in runs else str(folder)] = columns[options.metric]
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
