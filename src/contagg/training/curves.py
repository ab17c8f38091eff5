"""The numbers of runs as pictures: one run's curves, and several runs compared (Figure 1 left)."""

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from contagg.errors import UserError, nearest
from contagg.figures import save_figure
from contagg.training.run_folder import RunFolder

Axis = Literal["epoch", "step"]
Columns = dict[str, list[tuple[int, float]]]
"""A metric's name -> (epoch or step, value) of the epochs that have it."""

_NOT_CURVES = ("epoch", "step")
_PARTS = ("train", "validation")
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, which colour-blind people can tell apart."""


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
        panels.setdefault(rest if part in _PARTS else name, {})[name] = columns[name]
    figure = Figure(figsize=(4.2 * len(panels), 3.6), layout="constrained")
    figure.suptitle(title, fontsize=11)
    for axes, (kind, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        share = kind.startswith("accuracy")
        for colour, (name, points) in zip(_COLOURS, curves.items(), strict=False):
            _draw(axes, points, colour, name.replace("_", " "), share)
        _finish(axes, kind.replace("_", " "), share)
        if len(curves) > 1:
            axes.legend(frameon=False, fontsize=9)
        if share:
            _mark_best(axes, next(iter(curves.values())))
    return figure


def compare_figure(runs: Mapping[str, Sequence[tuple[int, float]]], metric: str, axis: Axis = "epoch") -> Figure:
    """One curve a run, named with its last value."""
    share = metric.startswith("accuracy")
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    order = sorted(runs.items(), key=lambda run: -run[1][-1][1])
    for number, (name, points) in enumerate(order):
        style = "-" if number < len(_COLOURS) else "--"
        last = f"{100 * points[-1][1]:.1f} %" if share else f"{points[-1][1]:.4g}"
        _draw(axes, points, _COLOURS[number % len(_COLOURS)], f"{name}: {last}", share, style)
    _finish(axes, metric.replace("_", " "), share, axis)
    axes.legend(frameon=False, fontsize=9)
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


def _finish(axes: Axes, kind: str, share: bool, axis: Axis = "epoch") -> None:
    axes.set_xlabel(axis)
    axes.set_ylabel(f"{kind} (%)" if share else kind)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def _mark_best(axes: Axes, points: Sequence[tuple[int, float]]) -> None:
    epoch, value = max(points, key=lambda point: point[1])
    axes.plot([epoch], [100 * value], "o", color=_COLOURS[0], markersize=6)
    axes.set_title(f"best {100 * value:.2f} % at epoch {epoch}", fontsize=10)
