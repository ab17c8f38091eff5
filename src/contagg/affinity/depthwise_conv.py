"""The static, local, shared affinity: depthwise convolution (Eq. 5)."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contagg.affinity.bands import Band
from contagg.affinity.base import Affinity, Grid, as_map, as_tokens, check_fills, clear_columns, frozen, spread
from contagg.affinity.depthwise import depthwise
from contagg.affinity.forms import Form
from contagg.errors import UserError


class DepthwiseConv(Affinity):
    """A_m[i, j] = w_m[(j - i) / dilation] inside the window, 0 outside, with zeros around the grid; serves any grid.

    One kernel for each head of `head_width` channels: 1 is depthwise convolution, more is the paper's MH-DW.
    """

    dynamic = False

    def __init__(
        self, channels: int, kernel_size: int = 3, head_width: int = 1, bias: bool = True, dilation: int = 1
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise UserError(f"dwconv{kernel_size}: the kernel size must be odd, so that a position has a centre")
        if channels % head_width:
            raise UserError(
                f"dwconv{kernel_size}/{head_width}: head width {head_width} does not divide {channels} channels"
            )
        self.heads = channels // head_width
        self.head_width = head_width
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.local = dilation * (kernel_size // 2)
        self.weight = nn.Parameter(torch.empty(self.heads, 1, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None
        # The uniform bound 1 / sqrt(fan in) of torch's convolutions, which the released network starts from.
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / kernel_size, 1 / kernel_size)

    @property
    def word(self) -> str:
        """That names its window; its head width aside."""
        return f"dwconv{self.kernel_size}" + (f" dilated {self.dilation}" if self.dilation > 1 else "")

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        check_fills(values, grid, f"dwconv{self.kernel_size}")
        weight = self.weight.repeat_interleave(self.head_width, 0) if self.head_width > 1 else self.weight
        return as_tokens(depthwise(as_map(values, grid), weight, self.bias, self.dilation))

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        check_fills(tokens, grid, f"dwconv{self.kernel_size}")
        return clear_columns(kernel_rows(self.weight, grid, positions, self.dilation)[None], mask)

    def form(self, tokens: Tensor, grid: Grid) -> Form | None:
        return Band(kernel=self.weight[:, 0], grid=grid, dilation=self.dilation)

    def multiply_adds(self, grid: Grid) -> int:
        return grid[0] * grid[1] * self.heads * self.head_width * self.kernel_size**2

    def fold(self, gate: Tensor) -> "DepthwiseConv":
        """A kernel a channel, each times its gate."""
        folded, channels = copy.copy(self), self.heads * self.head_width
        # A shallow copy shares the dictionaries that hold a module's parameters.
        folded._parameters = dict(self._parameters)
        weight = spread(gate, channels)
        folded.weight = frozen(self.weight.repeat_interleave(self.head_width, 0) * weight.view(-1, 1, 1, 1))
        folded.bias = None if self.bias is None else frozen(self.bias * weight)
        folded.heads, folded.head_width = channels, 1
        return folded

    def merge(self, other: Affinity) -> "DepthwiseConv | None":
        """One convolution for two: the smaller kernels are put into the middle of the larger."""
        # A kind that derives from this one may read its kernel otherwise.
        if type(self) is not DepthwiseConv or type(other) is not DepthwiseConv or self.heads != other.heads:
            return None
        small, large = sorted((self, other), key=lambda convolution: (convolution.local, -convolution.dilation))
        if small.dilation != large.dilation:
            if large.dilation > 1:  # filling its holes would cost more than a second convolution
                return None
            small = small._without_holes()
        margin = (large.kernel_size - small.kernel_size) // 2
        merged = large.fold(large.weight.new_ones(1))
        merged.weight = frozen(large.weight + F.pad(small.weight, [margin] * 4))
        if small.bias is not None:
            merged.bias = frozen(small.bias if large.bias is None else large.bias + small.bias)
        return merged

    def _without_holes(self) -> "DepthwiseConv":
        """The same with zeros where a dilated kernel has holes."""
        dense = self.fold(self.weight.new_ones(1))
        dense.kernel_size, dense.dilation = self.dilation * (self.kernel_size - 1) + 1, 1
        weight = dense.weight.new_zeros(*dense.weight.shape[:2], dense.kernel_size, dense.kernel_size)
        weight[..., :: self.dilation, :: self.dilation] = dense.weight
        dense.weight = frozen(weight)
        return dense


def kernel_rows(weight: Tensor, grid: Grid, positions: Tensor, dilation: int = 1) -> Tensor:
    """Rows at `positions` (R,) of the matrices of kernels (M, 1, k, k') with zeros around the grid: (M, R, H*W)."""
    height, width = grid
    row, column = (
        dilation * torch.arange(-(size // 2), size // 2 + 1, device=weight.device) for size in weight.shape[2:]
    )
    row = (positions // width)[:, None, None] + row[:, None]
    column = (positions % width)[:, None, None] + column
    within = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    # Neighbours outside the grid are written to one spare column, which is cut off.
    target = torch.where(within, row * width + column, height * width).flatten(1)
    shape = (len(weight), *target.shape)
    empty = weight.new_zeros(len(weight), len(positions), height * width + 1)
    kernel = weight.flatten(1)[:, None].expand(shape)
    return empty.scatter(2, target.expand(shape), kernel)[:, :, :-1]
