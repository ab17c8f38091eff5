"""A kind as a user of the package writes it: a depthwise convolution with holes, which takes over all but its reach."""

import torch
import torch.nn.functional as F
from torch import Tensor

import contagg
from contagg.affinity import DepthwiseConv, Grid, Site
from contagg.affinity.base import as_map, as_tokens, check_fills, clear_columns


class DilatedConv(DepthwiseConv):
    """A_m[i, j] = w_m[(j - i) / dilation] where that is whole and within the kernel, else 0."""

    def __init__(self, site: Site, kernel_size: int = 3, dilation: int = 2) -> None:
        super().__init__(site.channels, kernel_size)
        self.dilation = dilation
        self.local = dilation * (kernel_size // 2)

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        check_fills(values, grid, "dilated")
        feature_map = as_map(values, grid)
        return as_tokens(
            F.conv2d(feature_map, self.weight, self.bias, 1, self.local, self.dilation, groups=len(self.weight))
        )

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        targets = torch.cartesian_prod(*(torch.arange(length, device=tokens.device) for length in grid))
        offsets = targets - targets[positions][:, None]
        places = offsets // self.dilation + self.kernel_size // 2
        holds = (offsets % self.dilation == 0).all(-1) & (offsets.abs() <= self.local).all(-1)
        places = places.clamp(0, self.kernel_size - 1)
        return clear_columns(self.weight[None, :, 0, places[..., 0], places[..., 1]] * holds, mask)


contagg.register_affinity("dilated{kernel_size}[x{dilation}]", DilatedConv, ["dilated3", "dilated5x3"])
