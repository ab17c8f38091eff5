"""Static mixers that learn no A, or the bands of one: what MetaFormer and InceptionNeXt put in attention's place.

PoolFormer's mean and the controls, identity and random: Yu et al., "MetaFormer Is Actually What You Need for Vision"
(https://arxiv.org/abs/2111.11418) and "MetaFormer Baselines for Vision" (https://arxiv.org/abs/2210.13452).
Strips: Yu et al., "InceptionNeXt" (https://arxiv.org/abs/2303.16900).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contagg.affinity.bands import Band, Sparse
from contagg.affinity.base import Affinity, Grid, as_map, as_tokens, check_fills, clear_columns, frozen, tokens_on
from contagg.affinity.depthwise import depthwise
from contagg.affinity.depthwise_conv import kernel_rows
from contagg.affinity.forms import Form, Sum
from contagg.affinity.token_mlp import TokenMLP
from contagg.errors import UserError


class Pooling(Affinity):
    """A = mean of the window's tokens that hold an image, minus identity: PoolFormer's, without parameters."""

    dynamic = False
    heads = 1

    def __init__(self, size: int = 3) -> None:
        super().__init__()
        if size % 2 == 0:
            raise UserError(f"pool{size}: the window must be odd, so that a position has a centre")
        self.size = size
        self.local = size // 2

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        check_fills(values, grid, f"pool{self.size}")
        feature_map, reach = as_map(values, grid), self.size // 2
        if mask is None:
            mean = F.avg_pool2d(feature_map, self.size, 1, reach, count_include_pad=False)
        else:
            mean = F.avg_pool2d(feature_map, self.size, 1, reach)
            held = F.avg_pool2d(mask[:, None].to(mean), self.size, 1, reach)
            mean = mean / held.clamp_min(0.5 / self.size**2)
        return as_tokens(mean - feature_map)

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        check_fills(tokens, grid, f"pool{self.size}")
        near = clear_columns(kernel_rows(tokens.new_ones(1, 1, self.size, self.size), grid, positions)[None], mask)
        itself = clear_columns(kernel_rows(tokens.new_ones(1, 1, 1, 1), grid, positions)[None], mask)
        return near / near.sum(-1, keepdim=True).clamp_min(1) - itself

    def form(self, tokens: Tensor, grid: Grid) -> Form | None:
        one = tokens.new_ones(1)
        mean = Band(kernel=tokens.new_full((1, self.size, self.size), self.size**-2), grid=grid, padding="mean")
        return Sum(parts=((one, mean), (-one, Band(kernel=tokens.new_ones(1, 1, 1), grid=grid))))

    def multiply_adds(self, grid: Grid) -> int:
        return 0


class Strips(Affinity):
    """InceptionNeXt's depthwise convolution: a matrix a channel, the identity for most of them.

    The last 3/8 of the channels have kernels, a third of them each 3 x 3, 1 x size and size x 1.
    """

    dynamic = False

    def __init__(self, channels: int, size: int = 11) -> None:
        super().__init__()
        if size % 2 == 0:
            raise UserError(f"strips{size}: the bands must be odd, so that a position has a centre")
        self.heads, self.size = channels, size
        self.local = max(1, size // 2)
        self.widths = [channels - 3 * max(1, channels // 8), *[max(1, channels // 8)] * 3]
        if self.widths[0] < 0:
            raise UserError(f"strips{size}: {channels} channels are too few for its three kernels")
        shapes = ((3, 3), (1, size), (size, 1))
        self.kernels = nn.ParameterList(torch.empty(self.widths[-1], 1, *shape) for shape in shapes)
        self.shifts = nn.Parameter(torch.empty(3 * self.widths[-1]))
        for kernel, shift in zip(self.kernels, self.shifts.chunk(3), strict=True):
            for parameter in (kernel, shift):  # as torch's convolutions start
                nn.init.uniform_(parameter, -(kernel[0].numel() ** -0.5), kernel[0].numel() ** -0.5)

    @property
    def bias(self) -> Tensor:  # type: ignore[override]
        return F.pad(self.shifts, (self.widths[0], 0))

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        check_fills(values, grid, f"strips{self.size}")
        kept, *parts = as_map(values, grid).split(self.widths, 1)
        shifts = self.shifts.chunk(3)
        bands = [depthwise(*each) for each in zip(parts, self.kernels, shifts, strict=True)]
        return as_tokens(torch.cat([kept.to(bands[0]), *bands], 1))

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        check_fills(tokens, grid, f"strips{self.size}")
        kernels = [self.shifts.new_ones(self.widths[0], 1, 1, 1), *self.kernels]
        rows = torch.cat([kernel_rows(kernel, grid, positions) for kernel in kernels])
        return clear_columns(rows[None], mask)

    def form(self, tokens: Tensor, grid: Grid) -> Form | None:
        """All kernels as large as the largest."""
        kernels = [self.shifts.new_ones(self.widths[0], 1, 1, 1), *self.kernels]
        size = max(3, self.size)
        margins = [[(size - side) // 2 for side in kernel.shape[2:]] for kernel in kernels]
        larger = [F.pad(each, (x, x, y, y)) for each, (y, x) in zip(kernels, margins, strict=True)]
        return Band(kernel=torch.cat(larger)[:, 0], grid=grid)

    def multiply_adds(self, grid: Grid) -> int:
        return tokens_on(grid) * self.widths[-1] * (9 + 2 * self.size)


class Identity(Affinity):
    """A = I: what a network is without a mixer. Serves any grid and prefix tokens."""

    dynamic = False
    heads = 1
    local = 0

    def __init__(self, prefix: int = 0) -> None:
        super().__init__()
        self.prefix = prefix

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        return values.clone()

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        every = torch.arange(tokens.shape[1], device=tokens.device)
        return clear_columns((positions[:, None] == every).to(tokens)[None, None], mask)

    def form(self, tokens: Tensor, grid: Grid) -> Form | None:
        count = tokens.shape[1]
        return Sparse(weights=tokens.new_ones(1, count, 1), targets=torch.arange(count)[None, :, None], places=count)

    def multiply_adds(self, grid: Grid) -> int:
        return 0


class RandomMixing(TokenMLP):
    """A = softmax(U), U uniform in [0, 1): drawn once and never learnt. It serves one grid, as a token MLP does."""

    word = "random"

    def __init__(self, channels: int, grid: Grid, prefix: int = 0) -> None:
        super().__init__(channels, grid, prefix=prefix)
        count = tokens_on(grid, prefix)
        self.factors = nn.ParameterList([frozen(torch.rand(1, count, count).softmax(-1))])

    def resize(self, grid: Grid) -> None:
        """Interpolated as a token MLP's, and still not learnt."""
        super().resize(grid)
        self.factors.requires_grad_(False)
