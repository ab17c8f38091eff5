"""The periodic table of mixers: a cell a word, in the groups that were measured."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from PIL import Image

from contagg.errors import plural
from contagg.figures import GREEN, GREY, ORANGE, SKY, VERMILION, bare, new_figure
from contagg.inspect.mixers import BANDS, GROUPS, Mixer
from contagg.inspect.overlay import MARKER, colours, draw_image, draw_overlay

PEAK = 9.0
"""Times uniform at the ends of the scale that all cells share; what is more is cut."""

DEEP = 4
"""Rows of a band."""

LAW_COLOURS = {"0": GREY, "N": GREEN, "N log N": SKY, "N^1.5": ORANGE, "N^2": VERMILION}
_LAW_TEXTS = {"N log N": r"$N\,\log N$", "N^1.5": r"$N^{1.5}$", "N^2": r"$N^2$", "N": r"$N$", "0": "adds only"}

SCALE = colours(torch.tensor([-PEAK, PEAK]))
DARK = "#333333"

# Inches.
_WIDE, _HEAD, _FOOT, _GAP = 1.34, 0.24, 0.2, 0.12
_BETWEEN, _LEFT, _TOP, _TITLE = 0.3, 0.62, 2.15, 0.34
_TALL, _WIDEST, _READING = _TOP - 0.45, 4.0, 5.3
"""How tall and how wide the image above the cells may be, and how wide the text beside it is."""


@dataclass(frozen=True)
class _Cell:
    """A word's place: from the left and from the top, in inches."""

    mixer: Mixer
    left: float
    top: float


def mixers_figure(mixers: Sequence[Mixer], image: Image.Image, token: tuple[int, int], steps: int) -> Figure:
    """All mixers that were measured on an image, and the image with its marked token above them."""
    rows, columns = mixers[0].row.shape
    picture = min(1.3, _WIDE * rows / columns)
    cells, groups, width, height = _places(mixers, picture + _HEAD + _FOOT)
    width = max(width, _beside(image) + _READING)  # of few mixers the cells are narrower than what explains them
    figure = new_figure(width, height, untrained=False)
    figure.set_layout_engine("none")
    stride = image.width / columns
    for cell in cells:
        _draw(figure, cell, image, token, stride, picture)
    for text, left, right, top in groups:
        axes = _axes(figure, left, top, right - left, _TITLE)
        axes.axhline(0.12, color=GREY, linewidth=0.8)
        axes.text(0, 0.3, text, fontsize=10.5, color="#333333", va="bottom", transform=axes.transAxes)
    for band in {cell.mixer.family[0] for cell in cells}:
        tops = [cell.top for cell in cells if cell.mixer.family[0] == band]
        middle = (min(tops) + max(tops) + picture + _HEAD + _FOOT) / 2
        deep = max(tops) - min(tops) + picture + _HEAD + _FOOT
        figure.text(
            _LEFT / 2 / width,
            1 - middle / height,
            BANDS[band],
            rotation=90,
            fontsize=min(11, 8.2 * deep),  # as long as the band is deep
            ha="center",
            va="center",
            linespacing=1.5,
        )
    _header(figure, image, token, stride, steps, {mixer.law for mixer in mixers})
    return figure


def _places(
    mixers: Sequence[Mixer], tall: float
) -> tuple[list[_Cell], list[tuple[str, float, float, float]], float, float]:
    """Cells, the groups' titles with their left, right and top, and the figure's width and height."""
    found = {mixer.family for mixer in mixers}
    of = {family: [mixer for mixer in mixers if mixer.family == family] for family in found}
    cells, titles, left, bottom = [], [], _LEFT, 0.0
    bands = [band for band in BANDS if any(family[0] == band for family in found)]
    for group in GROUPS:
        counts = [len(of.get((band, group), ())) for band in bands]
        if not any(counts):
            continue
        across = max(-(-count // DEEP) for count in counts)
        titles.append((GROUPS[group], left, left + across * (_WIDE + _GAP) - _GAP, _TOP))
        top = _TOP + _TITLE
        for band in bands:
            deep = max(-(-len(of.get((band, each), ())) // _across(of, bands, each)) for each in GROUPS)
            for index, mixer in enumerate(of.get((band, group), ())):
                place = left + index % across * (_WIDE + _GAP), top + index // across * (tall + _GAP)
                cells.append(_Cell(mixer, *place))
            top += deep * (tall + _GAP) + _BETWEEN
        bottom = top - _BETWEEN
        left += across * (_WIDE + _GAP) + _BETWEEN
    return cells, titles, left - _BETWEEN + 0.1, bottom + 0.05


def _across(of: dict[tuple[str, str], list[Mixer]], bands: Sequence[str], group: str) -> int:
    return max(1, max(-(-len(of.get((band, group), ())) // DEEP) for band in bands))


def _draw(
    figure: Figure, cell: _Cell, image: Image.Image, token: tuple[int, int], stride: float, picture: float
) -> None:
    mixer, tall = cell.mixer, picture + _HEAD + _FOOT
    frame = _axes(figure, cell.left, cell.top, _WIDE, tall)
    frame.set(xlim=(0, _WIDE), ylim=(tall, 0))
    frame.add_patch(_box(0, 0, _WIDE, tall, LAW_COLOURS.get(mixer.law, GREY)))
    lines = textwrap.wrap(mixer.word, 17) if len(mixer.word) > 22 else [mixer.word]
    largest = 8.6 if len(lines) == 1 else 6.8
    size = min(largest, 8.6 * (14.2 - 0.5 * min(len(mixer.law), 7)) / max(map(len, lines)))
    frame.text(0.06, _HEAD / 2 + 0.01, "\n".join(lines), fontsize=size, fontweight="bold", va="center", linespacing=1.0)
    if mixer.law != "0":
        frame.text(_WIDE - 0.06, _HEAD / 2 + 0.01, _law_text(mixer.law), fontsize=7.6, va="center", ha="right")
    below = tall - _FOOT / 2 - 0.01
    if mixer.reach is not None:
        frame.text(0.06, below, f"reach {mixer.reach}", fontsize=7.2, va="center", color=DARK)
    most = f" of {mixer.through}" if mixer.family[1] == "few" else ""
    frame.text(_WIDE - 0.06, below, f"rank {mixer.rank}{most}", fontsize=7.2, va="center", ha="right", color=DARK)
    axes = _axes(figure, cell.left + 0.04, cell.top + _HEAD, _WIDE - 0.08, picture)
    draw_overlay(axes, mixer.row.float().clamp(-PEAK, PEAK), stride, image, (image.height, image.width), SCALE)
    _frame(axes, *token, stride)


def _header(
    figure: Figure, image: Image.Image, token: tuple[int, int], stride: float, steps: int, laws: set[str]
) -> None:
    """The image, and how to read the cells."""
    axes = _axes(figure, _LEFT, 0.15, *_size(image))
    draw_image(axes, image, (image.height, image.width))
    _frame(axes, *token, stride)
    left = _beside(image)
    right = figure.get_figwidth() - left - 0.1
    axes = _axes(figure, left, 0.15, right, _TALL)
    axes.set(xlim=(0, right), ylim=(_TALL, 0))
    axes.text(0, 0.0, "Token mixers: Y = A V", fontsize=17, va="top")
    learnt = f"A was learnt in {plural(steps, 'step')}, to take noise from parts of the photograph."
    told = learnt if steps else "Untrained: A is that of random weights."
    axes.text(0, 0.4, told, fontsize=9.5, va="top", color=DARK if steps else VERMILION)
    lines = (
        "Each cell shows what the framed token gathers from.",
        "reach  the farthest that it gathers from, in tokens, where that is bounded",
        "rank   singular values of A above 1/1000 of the largest, of the most that there can be",
    )
    for index, line in enumerate(lines):
        axes.text(0, 0.72 + 0.19 * index, line, fontsize=8.5, va="center", color=DARK)
    axes.text(0, 1.4, "multiply-adds", fontsize=8.5, va="center", color=DARK)
    start = 0.98
    for law in [*(law for law in LAW_COLOURS if law in laws), *sorted(laws - LAW_COLOURS.keys())]:
        axes.add_patch(_box(start, 1.32, 0.2, 0.16, LAW_COLOURS.get(law, GREY)))
        axes.text(start + 0.27, 1.4, _law_text(law), fontsize=8.5, va="center")
        start += 0.52 + 0.07 * len(law) + (0.4 if law == "0" else 0)
    bar = figure.colorbar(SCALE, cax=_axes(figure, left + 0.98, 0.15 + 1.58, 2.2, 0.09), orientation="horizontal")
    bar.set_ticks([-PEAK, -1, 1, PEAK], labels=[f"−{PEAK:.0f}", "−1", "1", f"{PEAK:.0f}"])
    bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize=7.5, length=2, pad=2)
    bar.outline.set_visible(False)
    axes.text(0, 1.625, "times uniform", fontsize=8.5, va="center", color=DARK)


def _beside(image: Image.Image) -> float:
    """Where the text beside the image begins."""
    return _LEFT + _size(image)[0] + 0.3


def _size(image: Image.Image) -> tuple[float, float]:
    """How wide and how tall the image above the cells is."""
    scale = min(_TALL / image.height, _WIDEST / image.width)
    return scale * image.width, scale * image.height


def _law_text(law: str) -> str:
    return _LAW_TEXTS.get(law, f"$N^{{{law[2:]}}}$")


def _box(left: float, top: float, width: float, height: float, colour: str) -> FancyBboxPatch:
    return FancyBboxPatch(
        (left + 0.02, top + 0.02),
        width - 0.04,
        height - 0.04,
        boxstyle="round,pad=0.02,rounding_size=0.05",
        facecolor=_pale(colour, 0.22),
        edgecolor=_pale(colour, 0.75),
        linewidth=1.1,
    )


def _frame(axes: Axes, row: int, column: int, stride: float) -> None:
    """A frame as thin as a small map needs it."""
    for colour, width in (("white", 1.9), (MARKER, 1.0)):
        corner = column * stride, row * stride
        axes.add_patch(Rectangle(corner, stride, stride, fill=False, edgecolor=colour, linewidth=width))


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place in inches, from the left and from the top."""
    full = figure.get_size_inches()
    axes = figure.add_axes((left / full[0], 1 - (top + height) / full[1], width / full[0], height / full[1]))
    bare(axes)
    axes.set_facecolor("none")
    axes.spines[:].set_visible(False)
    return axes


def _pale(colour: str, share: float) -> tuple[float, float, float]:
    red, green, blue = (1 - share * (1 - part) for part in to_rgb(colour))
    return red, green, blue
