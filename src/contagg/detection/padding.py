"""What lies beyond an image's edge in a padded batch is what would lie there if it were alone: nothing.

The backbone sees to its own layers. This does it for the layers behind, torchvision's, so that padding moves no box.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

NOTHING = -100.0
"""The logit of no score; `sigmoid` makes 4e-44 of it."""


class PaddingMask:
    """Makes convolutions find zeros in the padding of the batch under way. One object is shared by a detector's parts.

    Attributes:
        mask: bool (B, H, W), in pixels, true where an image is; None where images fill the batch.
    """

    def __init__(self) -> None:
        self.mask: Tensor | None = None

    def zero_padding(self, *parts: nn.Module) -> None:
        """Clear the padding before each convolution of `parts` that looks at neighbours."""
        for part in parts:
            for module in part.modules():
                if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1:
                    module.register_forward_pre_hook(self._clear)

    def _clear(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor, ...] | None:
        if self.mask is None:
            return None
        (level,) = inputs
        return (level.masked_fill(~on_level(self.mask, level)[:, None], 0),)

    def mask_logits(self, logits: nn.Module) -> None:
        """Let the convolution that gives scores find nothing in the padding, but for training."""
        logits.register_forward_hook(self._mask_logits)

    def _mask_logits(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        if self.mask is None or module.training:
            return output
        return output.masked_fill(~on_level(self.mask, output)[:, None], NOTHING)


def on_level(mask: Tensor, level: Tensor) -> Tensor:
    """Where the images are on a level of a pyramid, (B, C, h, w): bool (B, h, w)."""
    rows, columns = (_step(mask.shape[axis], level.shape[axis + 1]) for axis in (1, 2))
    return mask[:, ::rows, ::columns]


class EdgedRoIAlign(MultiScaleRoIAlign):
    """RoIAlign on levels at given strides, whose samples beyond an image's edge find the edge's cells.

    torchvision's finds the padding of a batch there, or, where there is none, the edge and then nothing; and it guesses
    the strides from the first batch that it meets.
    """

    def __init__(self, strides: Sequence[int], size: int) -> None:
        super().__init__([str(number) for number in range(len(strides))], size, sampling_ratio=2)
        self.scales = [1 / stride for stride in strides]
        self.map_levels = LevelMapper(int(math.log2(strides[0])), int(math.log2(strides[-1])))
        self.strides = tuple(strides)

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Levels (B, C, h, w), boxes (N, 4) an image and the images' sizes in pixels -> (sum of N, C, size, size)."""
        edged = {
            name: repeat_edges(x[name], image_shapes, stride)
            for name, stride in zip(self.featmap_names, self.strides, strict=True)
        }
        return super().forward(edged, boxes, image_shapes)


def repeat_edges(level: Tensor, sizes: Sequence[tuple[int, int]], stride: int) -> Tensor:
    """(B, C, h, w) -> (B, C, h + 2, w + 2) in which each image's last row and column come twice more.

    Two, because RoIAlign makes a cell of what is thinner, and interpolates to the next.
    """
    padded = F.pad(level, (0, 2, 0, 2))
    for number, pixels in enumerate(sizes):
        height, width = (-(-length // stride) for length in pixels)
        padded[number, :, height : height + 2] = padded[number, :, height - 1 : height].clone()
        padded[number, :, :, width : width + 2] = padded[number, :, :, width - 1 : width].clone()
    return padded


def _step(pixels: int, cells: int) -> int:
    """The stride, a power of two, of which `cells` cover `pixels`."""
    step = 1
    while -(-pixels // step) > cells:
        step *= 2
    return step
