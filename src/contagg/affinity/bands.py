"""Matrices with few entries a row written down: kernels that move over the grid, and places to gather from.

Shapes are those of `contagg.affinity.forms`.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from contagg.affinity.forms import ELEMENTS, Form


@dataclass(frozen=True, kw_only=True)
class Sparse(Form):
    """K entries a row: `weights` (M, N', K) at places `targets` (1 or M, N', K), -1 where there is none.

    Entries at one place are summed.
    """

    weights: Tensor
    targets: Tensor
    places: int

    @property
    def heads(self) -> int:  # type: ignore[override]
        return self.weights.shape[0]

    @property
    def shape(self) -> tuple[int, int]:  # type: ignore[override]
        return self.weights.shape[1], self.places

    def rows(self, positions: Tensor) -> Tensor:
        weights = self.weights[:, positions]
        # One spare column takes what lies nowhere.
        targets = self._spare(self.targets[:, positions]).expand(weights.shape)
        return weights.new_zeros(*weights.shape[:2], self.places + 1).scatter_add(2, targets, weights)[..., :-1]

    def columns(self, positions: Tensor) -> Tensor:
        found = [(self.weights * (self.targets == place)).sum(2) for place in positions.tolist()]
        return torch.stack(found, 2) if found else self.weights[..., :0]

    def pull(self, weights: Tensor) -> Tensor:
        shape = (self.heads, weights.shape[1], self.targets.shape[1] * self.targets.shape[2])
        entries = (weights[..., None] * self.weights[:, None].to(weights.dtype)).flatten(2)
        targets = self._spare(self.targets).flatten(1)[:, None].expand(shape)
        return weights.new_zeros(*shape[:2], self.places + 1).scatter_add(2, targets, entries)[..., :-1]

    def _spare(self, targets: Tensor) -> Tensor:
        return torch.where(targets < 0, self.places, targets)


@dataclass(frozen=True, kw_only=True)
class Band(Form):
    """A kernel that moves over the grid: `kernel` (M, k, k'), or one a position, (N, M, k, k').

    The entry at row a and column b of a kernel weighs the place (a - k // 2, b - k' // 2) times `dilation` away.
    Beyond the grid lie zeros, or what `padding` says; with "mean" a row is divided by the sizes of its kernel's entries
    within the grid and multiplied by all of theirs. Prefix tokens gather nothing and give nothing.
    """

    kernel: Tensor
    grid: tuple[int, int]
    dilation: int = 1
    padding: Literal["zeros", "circular", "reflect", "replicate", "mean"] = "zeros"
    prefix: int = 0

    @property
    def heads(self) -> int:  # type: ignore[override]
        return self.kernel.shape[-3]

    @property
    def shape(self) -> tuple[int, int]:  # type: ignore[override]
        return (self.prefix + math.prod(self.grid),) * 2

    def rows(self, positions: Tensor) -> Tensor:
        return self._sparse(positions).rows(torch.arange(len(positions)))

    def columns(self, positions: Tensor) -> Tensor:
        if self.kernel.ndim == 3 and self.padding == "zeros":  # what it gives is what its mirror image gathers
            return self._turned().rows(positions).mT
        return torch.cat([self._sparse(some).columns(positions) for some in self._chunks()], 1)

    def pull(self, weights: Tensor) -> Tensor:
        if self.kernel.ndim == 3 and self.padding == "zeros":
            return self._turned().push(weights.mT).mT
        found = weights.new_zeros(self.heads, weights.shape[1], self.shape[1])
        for some in self._chunks():
            found += self._sparse(some).pull(weights[:, :, some])
        return found

    def push(self, values: Tensor) -> Tensor:
        if self.kernel.ndim == 4 or self.padding != "zeros":
            return super().push(values)
        maps = values[:, self.prefix :].mT.unflatten(2, self.grid).expand(self.heads, -1, -1, -1).transpose(0, 1)
        reach = [self.dilation * (size // 2) for size in self.kernel.shape[1:]]
        # An even kernel reaches one further to the one side.
        maps = F.pad(maps, (reach[1], reach[1], reach[0], reach[0]))
        found = F.conv2d(maps, self.kernel[:, None].to(maps), dilation=self.dilation, groups=self.heads)
        found = found[..., : self.grid[0], : self.grid[1]].flatten(2)
        return F.pad(found.permute(1, 2, 0), (0, 0, self.prefix, 0))

    def _chunks(self) -> Iterator[Tensor]:
        at_once = max(1, ELEMENTS // (self.heads * math.prod(self.kernel.shape[-2:])))
        return iter(torch.arange(self.shape[0]).split(at_once))

    def _turned(self) -> "Band":
        """The transposed matrix, of kernels that all positions share: their mirror images, made odd."""
        even = [1 - size % 2 for size in self.kernel.shape[1:]]
        kernel = F.pad(self.kernel, (0, even[1], 0, even[0])).flip(1, 2)
        return Band(kernel=kernel, grid=self.grid, dilation=self.dilation, prefix=self.prefix)

    def _sparse(self, positions: Tensor) -> Sparse:
        """The rows at `positions`."""
        height, width = self.grid
        on_grid, size = positions - self.prefix, self.kernel.shape[-2:]
        offsets = [self.dilation * (torch.arange(length) - length // 2) for length in size]
        row = (on_grid // width)[:, None, None] + offsets[0][:, None]
        column = (on_grid % width)[:, None, None] + offsets[1]
        row, column = (self._within(*each) for each in ((row, height), (column, width)))
        held = (row >= 0) & (column >= 0) & (on_grid >= 0)[:, None, None]
        targets = torch.where(held, self.prefix + row * width + column, -1).flatten(1)
        chosen = self.kernel[on_grid.clamp_min(0)].movedim(1, 0) if self.kernel.ndim == 4 else self.kernel[:, None]
        weights = chosen.flatten(2).expand(-1, len(positions), -1)
        if self.padding == "mean":
            sizes = weights.abs()
            weights = weights * sizes.sum(2, True) / (sizes * (targets >= 0)).sum(2, True).clamp_min(1e-30)
        return Sparse(weights=weights, targets=targets[None], places=self.shape[1])

    def _within(self, index: Tensor, length: int) -> Tensor:
        """Where along an axis an index lies that may be beyond the grid, -1 where nowhere."""
        if self.padding == "circular":
            return index % length
        if self.padding == "replicate":
            return index.clamp(0, length - 1)
        if self.padding == "reflect":
            turn = max(1, 2 * length - 2)
            return (length - 1 - (index % turn - (length - 1)).abs()).clamp_min(0)
        return torch.where((index >= 0) & (index < length), index, -1)


def within_reach(rows: Callable[[Tensor], Tensor], heads: int, local: int, grid: tuple[int, int]) -> Sparse:
    """The entries no farther than `local` of a matrix whose rows at positions (R,) are asked for, (M, R, N)."""
    count, width = grid[0] * grid[1], grid[1]
    reach = torch.arange(-local, local + 1)
    row = (torch.arange(count) // width)[:, None, None] + reach[:, None]
    column = (torch.arange(count) % width)[:, None, None] + reach
    within = (row >= 0) & (row < grid[0]) & (column >= 0) & (column < width)
    targets = torch.where(within, row * width + column, -1).flatten(1)
    weights = [
        rows(some).take_along_dim(targets[some].clamp_min(0)[None], 2) * (targets[some] >= 0)
        for some in torch.arange(count).split(max(1, ELEMENTS // (heads * count)))
    ]
    return Sparse(weights=torch.cat(weights, 1), targets=targets[None], places=count)
