"""When a teacher has collapsed, that is, gives all images the same target, and pictures of how far it is from that."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from contagg.errors import UserError
from contagg.figures import BLUE, PALETTE, VERMILION, new_figure, percent, plain_axes, save_figure
from contagg.training.rows import read_metrics

SHARP, UNIFORM = 0.01, 0.99
"""Shares of log K below and above which a mean entropy may be a collapse."""
SAME = 0.02
"""Nats of information about the image below which all targets are the same."""


def collapse(entropy: float, information: float, outputs: int) -> str | None:
    """What kind of collapse the means of an epoch show, or None.

    Args:
        entropy: Of the teacher's targets, 0 to log K.
        information: Entropy of a batch's mean target less `entropy`.
        outputs: K.
    """
    top = math.log(outputs)
    if information >= SAME:
        return None
    if entropy > UNIFORM * top:
        return f"the teacher's targets have become uniform: entropy {entropy:.3f} of at most {top:.3f}"
    if entropy < SHARP * top:
        return f"the teacher's targets have become one prototype for all images: entropy {entropy:.3f}"
    return f"the teacher gives all images the same target: entropy {entropy:.3f}, information {information:.4f}"


def draw_teacher(folder: str | Path, outputs: int) -> Path:
    """Draw `figures/teacher.png` of a run: entropy within its bounds, information, k-NN accuracy if measured.

    Args:
        outputs: K.
    """
    columns = read_metrics(folder)
    accuracy = {name: points for name, points in columns.items() if name.startswith("accuracy_knn")}
    if "train_teacher_entropy" not in columns:
        raise UserError(f"{folder} is no run of DINO: it has no teacher's entropy")
    figure = new_figure(4.4 * (2 + bool(accuracy)), 3.6, Path(folder).resolve().name)
    panels = figure.subplots(1, 2 + bool(accuracy))
    _entropy(panels[0], columns["train_teacher_entropy"], math.log(outputs))
    _information(panels[1], columns["train_teacher_information"])
    if accuracy:
        _accuracy(panels[2], accuracy)
    path = Path(folder) / "figures" / "teacher.png"
    save_figure(figure, path)
    return path


def _entropy(axes: Axes, points: Sequence[tuple[int, float]], top: float) -> None:
    axes.axhspan(UNIFORM * top, top, color=VERMILION, alpha=0.25, linewidth=0)
    axes.axhspan(0, SHARP * top, color=VERMILION, alpha=0.25, linewidth=0)
    for height, name, side in ((top, "log K: uniform", "bottom"), (0, "0: one prototype", "top")):
        axes.axhline(height, color=VERMILION, linewidth=1)
        axes.annotate(
            name,
            (0.98, height),
            (0, 3 if side == "bottom" else -4),
            ("axes fraction", "data"),
            "offset points",
            ha="right",
            va=side,
            color=VERMILION,
            fontsize=9,
        )
    axes.plot(*zip(*points, strict=True), color=BLUE, marker="o" if len(points) < 3 else None)
    axes.set_ylim(-0.09 * top, 1.09 * top)
    plain_axes(axes, "epoch", title="entropy of the teacher's targets (nats)", whole=True)


def _information(axes: Axes, points: Sequence[tuple[int, float]]) -> None:
    axes.axhline(0, color=VERMILION, linewidth=1)
    axes.annotate(
        "0: all images alike", (0.98, 0), xycoords=("axes fraction", "data"), ha="right", va="bottom", color=VERMILION,
        fontsize=9,
    )  # fmt: skip
    axes.plot(*zip(*points, strict=True), color=BLUE, marker="o" if len(points) < 3 else None)
    axes.set_ylim(bottom=min(0, min(value for _, value in points)) - 0.05)
    plain_axes(axes, "epoch", title="what a target says of its image (nats)", whole=True)


def _accuracy(axes: Axes, curves: dict[str, list[tuple[int, float]]]) -> None:
    for number, (name, points) in enumerate(curves.items()):
        epochs, values = zip(*points, strict=True)
        colour = PALETTE[number % len(PALETTE)]
        label = f"k = {name.removeprefix('accuracy_knn')}: {percent(values[-1])}"
        axes.plot(epochs, [100 * value for value in values], marker="o", markersize=3, color=colour, label=label)
    axes.legend(frameon=False, fontsize=9, title="at the last epoch", title_fontsize=9, alignment="left")
    plain_axes(axes, "epoch", title="k nearest neighbours of the teacher (%)", whole=True)
