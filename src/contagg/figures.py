"""What all pictures share: colours, axes, the way numbers are rounded, and saving. Needs no torch.

Lines and marks take Okabe and Ito's colours, which colour-blind people tell apart. Maps take one of two scales: weights
without signs go from pale to dark (matplotlib's magma, evenly spaced to the eye and in grey), signed ones from blue
over white to a lighter orange, so that the two ends differ in grey as well.
"""

import io
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from contagg.errors import UserError
from contagg.files import FIGURE_ENDINGS, write_output

BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, "#000000")
GREY = "#6b6b6b"
"""Of what explains and of what is outside the comparison."""

# The palest tenth would be lost on white, the darkest tenth on black print.
UNSIGNED = ListedColormap(matplotlib.colormaps["magma_r"](np.linspace(0.04, 0.88, 256)), "unsigned")
SIGNED = LinearSegmentedColormap.from_list("signed", ["#08306b", "#4292c6", "#f7f7f7", "#fdae6b", "#e6550d"])
"""Blue for what is subtracted, orange for what is added."""

_DOTS_PER_INCH = 130


def new_figure(width: float, height: float, title: str = "", *, untrained: bool = False) -> Figure:
    """A white figure of `width` x `height` inches; one of an untrained network says so before its title."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    if untrained:
        title = f"Untrained network, random weights\n{title}"
    if title:
        figure.suptitle(title, fontsize=11, color=VERMILION if untrained else "black")
    return figure


def plain_axes(axes: Axes, x: str, y: str = "", title: str = "", *, whole: bool = False) -> None:
    """Labels, a faint grid and no frame but the two axes; `whole` keeps the ticks of x at whole numbers."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if title:
        axes.set_title(title, fontsize=10)
    if whole:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def bare(axes: Axes, frame: str = "#bbbbbb") -> None:
    """No ticks, and a frame of one colour."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(frame)


def percent(share: float, digits: int = 1) -> str:
    """A share as people round it: half up from the decimal number, also where its nearest float lies just below.

    >>> percent(0.8105), percent(0.99164, 2)
    ('81.1 %', '99.16 %')
    """
    if not np.isfinite(share):
        return f"{share} %"
    exact = Decimal(f"{100 * share:.{digits + 3}f}")
    return f"{exact.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)} %"


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the format that its ending names. UserError for another ending or an unusable folder."""
    if path.suffix not in FIGURE_ENDINGS:
        raise UserError(f"{path} must end in one of {', '.join(FIGURE_ENDINGS)}")
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:], dpi=_DOTS_PER_INCH)
    write_output(path, content.getvalue())


def overlap(boxes: Sequence[Bbox], others: Sequence[Bbox]) -> np.ndarray:
    """The area, in square pixels, that each box shares with each of the others, summed: what a name would hide there.

    >>> unit = Bbox.unit()
    >>> overlap([unit, unit.translated(9, 0)], [unit.translated(0.5, 0), unit.translated(0, -0.25)]).tolist()
    [1.25, 0.0]
    """
    here, there = (np.array([box.extents for box in some]).reshape(-1, 4) for some in (boxes, others))
    low = np.maximum(here[:, None, :2], there[:, :2])
    high = np.minimum(here[:, None, 2:], there[:, 2:])
    return (high - low).clip(min=0).prod(axis=-1).sum(axis=-1)


def outside(boxes: Sequence[Bbox], frame: Bbox) -> np.ndarray:
    """The area, in square pixels, of each box beyond a frame."""
    return np.array([box.width * box.height for box in boxes]) - overlap(boxes, [frame])
