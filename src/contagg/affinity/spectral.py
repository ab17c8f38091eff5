"""Static, global mixers whose A V is cheap in another basis: a filter, heat, and a kernel as large as the image.

Filter: Rao et al., "Global Filter Networks" (GFNet, https://arxiv.org/abs/2107.00645).
Heat: Wang et al., "vHeat: Building Vision Models upon Heat Conduction" (https://arxiv.org/abs/2405.16555), with one
diffusivity a channel, so that any grid is served, where vHeat predicts one a frequency from a map of one grid.
Toeplitz: Qin et al., "Toeplitz Neural Network" (TNN, https://arxiv.org/abs/2305.04749), over offsets in two dimensions.
"""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import flop_counter

from contagg.affinity.bands import Band
from contagg.affinity.base import (
    Affinity,
    Grid,
    as_map,
    as_tokens,
    check_fills,
    clear_columns,
    each_alone,
    frozen,
    rows_alone,
    single,
    spread,
    tokens_on,
)
from contagg.affinity.forms import Form
from contagg.errors import UserError


def fft_multiply_adds(grid: Grid) -> int:
    """Of a real FFT over a grid of N: half of the N log2 N complex butterflies' 5 / 2."""
    count = math.prod(grid)
    return round(1.25 * count * math.log2(count))


def _count_fft(shape: tuple[int, ...], dims: list[int], *_: object, out_shape: tuple[int, ...], **__: object) -> int:
    real = max(shape, out_shape, key=lambda each: each[dims[-1]])
    grid = (real[dims[0]], real[dims[1]]) if len(dims) == 2 else (1, real[dims[0]])
    return 2 * math.prod(real) // math.prod(grid) * fft_multiply_adds(grid)


# torch's counter knows products and convolutions alone: without this a network of filters would cost nothing.
for _operation in (torch.ops.aten._fft_r2c, torch.ops.aten._fft_c2r):
    if _operation not in flop_counter.flop_registry:
        flop_counter.register_flop_formula(_operation)(_count_fft)


class _OfOffsets(Affinity):
    """A[i, j] = weight of the offset between i and j, learnt for one grid: a product in the basis of Fourier."""

    dynamic = False
    grid: Grid
    word: str
    weight: nn.Parameter

    def _check(self, tokens: Tensor, grid: Grid) -> None:
        if not self.serves(grid):
            raise UserError(
                f"{self.word}: it was learnt on a grid of {self.grid[0]} x {self.grid[1]} and cannot serve "
                f"{grid[0]} x {grid[1]}; resize it first (`model.set_input_size(...)`) or create the model with that "
                "`img_size`"
            )
        check_fills(tokens, grid, self.word)

    def fold(self, gate: Tensor) -> "Affinity | None":
        """The gate in the weights, if no head of ours has more than one."""
        if self.heads % len(gate):
            return None
        folded = copy.copy(self)
        gates = spread(gate, self.heads).view(-1, *[1] * (self.weight.ndim - 1))
        folded._parameters = {**self._parameters, "weight": frozen(self.weight * gates)}
        return folded


class GlobalFilter(_OfOffsets):
    """A V = F^-1 (G * F V), a learnt spectrum G a channel: A is circulant along both sides of the grid."""

    word = "filter"

    def __init__(self, channels: int, grid: Grid) -> None:
        super().__init__()
        self.heads, self.grid = channels, grid
        self.weight = nn.Parameter(0.02 * torch.randn(channels, grid[0], grid[1] // 2 + 1, 2))

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        self._check(values, grid)
        spectrum = torch.fft.rfft2(as_map(single(values), grid))
        gathered = torch.fft.irfft2(spectrum * torch.view_as_complex(single(self.weight)), s=grid)
        return as_tokens(gathered).to(values.dtype)

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        self._check(tokens, grid)
        row, column = _offsets(positions, grid)
        return clear_columns(self._kernel()[None, :, row % grid[0], column % grid[1]], mask)

    def form(self, tokens: Tensor, grid: Grid) -> Form | None:
        self._check(tokens, grid)
        row, column = ((length // 2 - torch.arange(length)) % length for length in grid)
        return Band(kernel=self._kernel()[:, row[:, None], column], grid=grid, padding="circular")

    def _kernel(self) -> Tensor:
        """(C, H, W): what an offset of (0, 0), (0, 1), ... weighs."""
        return torch.fft.irfft2(torch.view_as_complex(single(self.weight)), s=self.grid)

    def multiply_adds(self, grid: Grid) -> int:
        return 2 * self.heads * fft_multiply_adds(grid)

    @torch.no_grad()
    def resize(self, grid: Grid) -> None:
        """The spectrum is interpolated: kernels keep their size in tokens, with zeros around them or their rim cut."""
        kernel = torch.fft.fftshift(self._kernel(), (1, 2))
        for axis, (old, new) in enumerate(zip(self.grid, grid, strict=True), 1):
            before = new // 2 - old // 2  # of both, the offset 0 lies at half the length
            padding = [before, new - old - before]
            kernel = F.pad(kernel, [0, 0] * (2 - axis) + padding)
        spectrum = torch.fft.rfft2(torch.fft.ifftshift(kernel, (1, 2)))
        self.weight = nn.Parameter(torch.view_as_real(spectrum).to(self.weight), self.weight.requires_grad)
        self.grid = grid


class Toeplitz(_OfOffsets):
    """A_m[i, j] = T_m[i - j], a learnt table over all offsets of the grid: a kernel as large as the image."""

    word = "toeplitz"

    def __init__(self, channels: int, grid: Grid, head_width: int = 1) -> None:
        super().__init__()
        if channels % head_width:
            raise UserError(f"toeplitz/{head_width}: head width {head_width} does not divide {channels} channels")
        self.heads, self.head_width, self.grid = channels // head_width, head_width, grid
        self.weight = nn.Parameter(0.02 * torch.randn(self.heads, 2 * grid[0] - 1, 2 * grid[1] - 1))

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        self._check(values, grid)
        # On a torus of twice the sides offsets that differ do not meet, but before the first row and column.
        torus = (2 * grid[0], 2 * grid[1])
        table = torch.fft.rfft2(single(self.weight)[:, None], s=torus)
        maps = as_map(single(values), grid).unflatten(1, (self.heads, self.head_width))
        gathered = torch.fft.irfft2(torch.fft.rfft2(maps, s=torus) * table, s=torus)
        return as_tokens(gathered[..., grid[0] - 1 : -1, grid[1] - 1 : -1].flatten(1, 2)).to(values.dtype)

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        self._check(tokens, grid)
        row, column = _offsets(positions, grid)
        return clear_columns(self.weight[None, :, row + grid[0] - 1, column + grid[1] - 1], mask)

    def form(self, tokens: Tensor, grid: Grid) -> Form | None:
        self._check(tokens, grid)
        return Band(kernel=self.weight.flip(1, 2), grid=grid)

    def multiply_adds(self, grid: Grid) -> int:
        transforms = self.heads * (2 * self.head_width + 1)
        return transforms * fft_multiply_adds((2 * grid[0], 2 * grid[1]))

    @torch.no_grad()
    def resize(self, grid: Grid) -> None:
        """The table is interpolated over the image and divided by the growth, so that a sum over an area stays."""
        gain = math.prod(self.grid) / math.prod(grid)
        size = (2 * grid[0] - 1, 2 * grid[1] - 1)
        table = F.interpolate(self.weight[None], size, mode="bilinear", align_corners=True)[0]
        self.weight = nn.Parameter(gain * table, self.weight.requires_grad)
        self.grid = grid


def _offsets(positions: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Rows and columns from every token to each position, (R, N) each."""
    every = torch.arange(tokens_on(grid), device=positions.device)
    offsets = (positions[:, None] // grid[1] - every // grid[1], positions[:, None] % grid[1] - every % grid[1])
    return offsets


class Heat(Affinity):
    """A = C' exp(-k w^2) C with the cosine transform C: a time of conduction, k a channel; serves any grid.

    k is a square of tokens. Of an image the sum stays, as in a plate with isolated rims.
    """

    dynamic = False

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = channels
        # Conduction over 0.4 to 4 tokens, a deviation of sqrt(2 k).
        self.log_conduction = nn.Parameter(torch.linspace(math.log(0.1), math.log(10), channels))

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        check_fills(values, grid, "heat")
        if mask is not None:
            return each_alone(self, values, tokens, mask)
        vertical, horizontal = (_cosines(length, values) for length in grid)
        decay = self._decay(grid[0])[:, None] * self._decay(grid[1])
        spectrum = torch.einsum("ph,bhwc->bpwc", vertical, values.unflatten(1, grid))
        spectrum = decay * torch.einsum("qw,bpwc->bpqc", horizontal, spectrum)
        spectrum = torch.einsum("ph,bpqc->bhqc", vertical, spectrum)
        return torch.einsum("qw,bhqc->bhwc", horizontal, spectrum).flatten(1, 2)

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        check_fills(tokens, grid, "heat")
        if mask is not None:
            return rows_alone(self, tokens, grid, positions, mask)
        # Both directions conduct on their own: A is the product of a matrix of rows and one of columns.
        vertical, horizontal = (
            torch.einsum("pi,pc,pj->cij", _cosines(length, tokens), self._decay(length), _cosines(length, tokens))
            for length in grid
        )
        rows = vertical[:, positions // grid[1], :, None] * horizontal[:, positions % grid[1], None]
        return rows.flatten(2)[None]

    def _decay(self, length: int) -> Tensor:
        """exp(-k w^2), (length, C)."""
        conduction = single(self.log_conduction).exp()
        index = torch.arange(length, device=conduction.device, dtype=conduction.dtype)
        return torch.exp(-conduction * (math.pi / length * index[:, None]) ** 2)

    def multiply_adds(self, grid: Grid) -> int:
        return 2 * self.heads * tokens_on(grid) * sum(grid)


def _cosines(length: int, like: Tensor) -> Tensor:
    """The orthonormal cosine transform (DCT-II), (length, length)."""
    index = torch.arange(length, device=like.device, dtype=single(like).dtype)
    waves = torch.cos(math.pi / length * index[:, None] * (index + 0.5))
    # The first is constant and half as large in square.
    return (waves * ((2 - (index[:, None] == 0).to(waves)) / length).sqrt()).to(like.dtype)
