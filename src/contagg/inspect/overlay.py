"""One map of weights laid over an image, and the pieces that all figures share."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.patches import Circle, Rectangle
from PIL import Image
from torch import Tensor

SIGNED = LinearSegmentedColormap.from_list("signed", ["#0b3c8c", "#4f9bd9", "#f7f7f7", "#ee7b51", "#8c0d25"])
"""Blue for what is subtracted, red for what is added."""

POSITIVE = LinearSegmentedColormap.from_list("positive", SIGNED(np.linspace(0.5, 1, 256)))
MARKER = "#00c853"


def colours(values: Tensor) -> ScalarMappable:
    """Colours for weights: white is 0, so that even weights look even, and the strongest colour the largest size."""
    peak = values.abs().max().item() or 1.0
    if values.min() < 0:
        return ScalarMappable(Normalize(-peak, peak), SIGNED)
    return ScalarMappable(Normalize(0, peak), POSITIVE)


def bare(axes: Axes) -> None:
    """Take ticks and frame away."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#bbbbbb")


def draw_image(axes: Axes, image: Image.Image, size: Sequence[int]) -> None:
    """The image in its colours, in the coordinates of the network's image of `size`."""
    height, width = size
    axes.imshow(np.asarray(image.convert("RGB")), extent=(0, width, height, 0), interpolation="nearest")
    bare(axes)


def draw_overlay(axes: Axes, values: Tensor, stride: float, image: Image.Image, size: Sequence[int]) -> ScalarMappable:
    """Weights (h, w), a token `stride` pixels wide, over the image in pale grey; small weights let it shine through."""
    height, width = size
    grey = np.asarray(image.convert("L"), dtype=float) / 255
    axes.imshow(0.35 + 0.6 * grey, extent=(0, width, height, 0), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    mappable = colours(values)
    painted = mappable.to_rgba(values.numpy())
    painted[..., 3] = 0.85 * (values.abs() / mappable.get_clim()[1]).sqrt().numpy()
    rows, columns = values.shape
    axes.imshow(painted, extent=(0, columns * stride, rows * stride, 0), interpolation="nearest")
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
    """A bar as high as the map, at its right, labelled at its ends and at 0."""
    bar = axes.figure.colorbar(mappable, cax=axes.inset_axes((1.02, 0, 0.035, 1)))
    low, high = mappable.get_clim()
    ticks = sorted({low, 0.0, high})
    bar.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])
    bar.ax.tick_params(labelsize=7, length=2, pad=2)
    bar.outline.set_visible(False)


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
    mark(inset, row - top - 0.5, column - start - 0.5, 1)
    bare(inset)
