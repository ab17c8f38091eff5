"""One map of weights laid over an image, and the pieces that all figures of weights share.

Weights are shown as *times uniform*: N A_ij / sum_j |A_ij| for a row i of N tokens. 1 is what each token would give if
all gave alike, in any layer, at any size of its grid, and for attention, whose rows sum to 1, it is N A.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, FuncNorm, ListedColormap, Normalize
from matplotlib.patches import Circle, Rectangle
from PIL import Image
from torch import Tensor

from contagg.figures import GREEN, GREY, SIGNED, UNSIGNED, bare

MARKER = GREEN
LEAST_PEAK = 9.0
"""Times uniform at the strong end of a scale, unless a weight is larger: so even weights are faint, a fifth of it."""
_OPACITY = 0.8
_CROWDED = 60.0
"""Times uniform of a scale's end above which its 0 and its 1 would be written over each other."""


def times_uniform(values: Tensor, prefix: Tensor | None = None) -> Tensor:
    """Weights (H, W) of one row of A, and (P,) of its class tokens: N times their share of all sizes, signs kept."""
    others = values.new_empty(0) if prefix is None else prefix
    total = values.abs().sum() + others.abs().sum()
    return values * (values.numel() + others.numel()) / total.clamp_min(torch.finfo(values.dtype).tiny)


def colours(values: Tensor) -> ScalarMappable:
    """Colours for weights in times uniform, spaced by their square root and as opaque as they are strong.

    0 has none and 1 hardly any: the photograph stays visible. Weights without signs have a scale without signs.
    """
    peak = max(values.abs().max().item(), LEAST_PEAK)
    signed = bool((values < 0).any())
    scale: Normalize = FuncNorm((_root, _square), -peak if signed else 0, peak)
    return ScalarMappable(scale, _SIGNED if signed else _UNSIGNED)


def _seen_through(palette: Colormap) -> Colormap:
    """A palette as opaque as the weights are large, from its weak end on, which of a signed one is its middle."""
    places = np.linspace(0, 1, 256)
    painted = palette(places)
    painted[:, 3] = _OPACITY * np.abs(2 * places - 1 if palette is SIGNED else places) ** 1.5
    return ListedColormap(painted, palette.name)


_SIGNED, _UNSIGNED = _seen_through(SIGNED), _seen_through(UNSIGNED)


def draw_image(axes: Axes, image: Image.Image, size: Sequence[int]) -> None:
    """The image in its colours, in the coordinates of the network's image of `size`."""
    height, width = size
    axes.imshow(np.asarray(image.convert("RGB")), extent=(0, width, height, 0), interpolation="nearest")
    bare(axes)


def draw_overlay(
    axes: Axes,
    values: Tensor,
    stride: float,
    image: Image.Image,
    size: Sequence[int],
    scale: ScalarMappable | None = None,
) -> ScalarMappable:
    """Weights (h, w) in times uniform, a token `stride` pixels wide, over the image in pale grey.

    `scale` is one of `colours` that several maps share; by default a map has its own.
    """
    height, width = size
    grey = np.asarray(image.convert("L"), dtype=float) / 255
    axes.imshow(0.5 + 0.5 * grey, extent=(0, width, height, 0), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    mappable = scale or colours(values)
    rows, columns = values.shape
    axes.imshow(
        mappable.to_rgba(values.numpy()), extent=(0, columns * stride, rows * stride, 0), interpolation="nearest"
    )
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    bare(axes)
    return mappable


def mark(axes: Axes, row: float, column: float, stride: float) -> None:
    """Frame a token whose corner is (row, column) times `stride`; ring one that is too small for a frame."""
    for colour, width in (("white", 3.0), (MARKER, 1.6)):
        style: dict[str, Any] = {"fill": False, "edgecolor": colour, "linewidth": width}
        if stride < 0.04 * abs(axes.get_xlim()[1] - axes.get_xlim()[0]):
            axes.add_patch(Circle(((column + 0.5) * stride, (row + 0.5) * stride), 3.6 * stride, **style))
        else:
            axes.add_patch(Rectangle((column * stride, row * stride), stride, stride, **style))


def colour_bar(axes: Axes, mappable: ScalarMappable) -> None:
    """A bar as high as the map, at its right, with a tick at 1, times uniform, and at its ends."""
    bar = axes.figure.colorbar(mappable, cax=axes.inset_axes((1.02, 0, 0.035, 1)))
    low, high = mappable.get_clim()
    ticks = [low, -1.0, 1.0, high] if low < 0 else [0.0, 1.0, high]
    ticks = ticks if low < 0 or high < _CROWDED else ticks[1:]
    bar.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])
    bar.ax.tick_params(labelsize=7, length=2, pad=2)
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)


def minus_signs(axes: Axes, values: Tensor, size: float) -> None:
    """A minus on each cell of a small map that subtracts: also where the picture is seen in grey."""
    strong = -0.4 * values.abs().max()
    for row, column in (values < 0).nonzero().tolist():
        colour = "white" if values[row, column] < strong else GREY
        axes.text(column, row, "−", ha="center", va="center", fontsize=size, color=colour)


def zoom(axes: Axes, values: Tensor, row: int, column: int) -> None:
    """Where all weight lies within a small window, show that window large in the farther half of the map."""
    used = values.nonzero()
    if len(used) == 0:
        return
    reach = int((used - used.new_tensor([row, column])).abs().max())
    rows, columns = values.shape
    if 2 * reach + 1 > min(rows, columns) / 3:
        return
    left = 0.54 if column < columns / 2 else 0.02
    bottom = 0.02 if row < rows / 2 else 0.54
    inset = axes.inset_axes((left, bottom, 0.44, 0.44))
    top, start = max(row - reach, 0), max(column - reach, 0)
    window = values[top : row + reach + 1, start : column + reach + 1]
    inset.imshow(colours(values).to_rgba(window.numpy()), interpolation="nearest")
    minus_signs(inset, window, 8)
    mark(inset, row - top - 0.5, column - start - 0.5, 1)
    bare(inset, "#333333")


def _root(values: np.ndarray) -> np.ndarray:
    return np.sign(values) * np.sqrt(np.abs(values))


def _square(values: np.ndarray) -> np.ndarray:
    return np.sign(values) * np.square(values)
