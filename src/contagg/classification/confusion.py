"""The confusion matrix as numbers and as a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from contagg.errors import plural
from contagg.figures import new_figure, save_figure
from contagg.files import as_csv, write_output

_MOST_NUMBERS = 20
"""Classes up to which each cell says its count."""
_MOST_NAMES = 60
"""Classes up to which the axes say their names."""


def write_confusion(folder: Path, confusion: Tensor, class_names: Sequence[str]) -> Path:
    """Write `confusion.csv` and `confusion.png` of counts (K, K), row: is, column: taken for; returns the picture."""
    rows = [[name, *counts] for name, counts in zip(class_names, confusion.tolist(), strict=True)]
    write_output(folder / "confusion.csv", as_csv([["is \\ taken for", *class_names], *rows]))
    save_figure(confusion_figure(confusion.numpy(), class_names), folder / "confusion.png")
    return folder / "confusion.png"


def confusion_figure(counts: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Shares of each class (row), and of few classes the counts; right answers lie on the diagonal."""
    classes = len(class_names)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(max(4.5, 0.42 * classes + 2), 14)
    figure = new_figure(side + 0.8, side)
    axes = figure.subplots()
    # The square root keeps a few mistakes in a hundred visible beside the diagonal.
    picture = axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1)
    right, total = int(np.trace(counts)), int(counts.sum())
    axes.set_title(f"{total - right} of {plural(total, 'image')} taken for another class", fontsize=11)
    axes.set_xlabel("taken for")
    axes.set_ylabel("is")
    _name_axes(axes, class_names)
    if classes <= _MOST_NUMBERS:
        _write_counts(axes, counts, shares)
    ticks = np.array([0, 0.01, 0.05, 0.1, 0.25, 0.5, 1])
    bar = figure.colorbar(picture, ticks=np.sqrt(ticks), shrink=0.8)
    bar.ax.set_yticklabels([f"{100 * tick:g} %" for tick in ticks])
    bar.set_label("share of the class")
    return figure


def _name_axes(axes: Axes, class_names: Sequence[str]) -> None:
    if len(class_names) > _MOST_NAMES:
        return
    long = max(map(len, class_names)) > 2
    places = np.arange(len(class_names))
    names = [name if len(name) <= 20 else name[:19] + "…" for name in class_names]
    axes.set_xticks(places, names, rotation=45 if long else 0, ha="right" if long else "center", rotation_mode="anchor")
    axes.set_yticks(places, names)


def _write_counts(axes: Axes, counts: np.ndarray, shares: np.ndarray) -> None:
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.3 else "black"
            axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=colour)
