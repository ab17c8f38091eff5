"""A written down: small tensors that give any row and any column of it exactly, for whoever looks at it afterwards.

A kind gives its own (`Affinity.form`), and what is recorded from anyone's model is put into the same few forms. They
are of one image, and never N x N unless they are `Dense`.

Shapes: M heads, N places that are gathered from (prefix tokens first, then the grid row by row), N' places that gather
(the same ones but in cross-attention and where queries are pooled), R chosen places, G groups such as windows.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from contagg.affinity.base import Grid

ELEMENTS = 2**23
"""Numbers that are held at once where a product runs through all of A."""


class Form(ABC):
    """A, (M, N', N), by its rows and columns.

    Attributes:
        heads: M.
        shape: (N', N).
    """

    heads: int
    shape: tuple[int, int]

    @abstractmethod
    def rows(self, positions: Tensor) -> Tensor:
        """What the places `positions` (R,) gather, (M, R, N)."""

    @abstractmethod
    def columns(self, positions: Tensor) -> Tensor:
        """What is gathered from the places `positions` (R,), (M, N', R)."""

    def pull(self, weights: Tensor) -> Tensor:
        """w A for `weights` (1 or M, R, N'), (M, R, N): what a sum over gathering places has gathered."""
        found = weights.new_zeros(self.heads, weights.shape[1], self.shape[1])
        for some in self._chunks():
            found += weights[:, :, some] @ self.rows(some).to(weights.dtype)
        return found

    def push(self, values: Tensor) -> Tensor:
        """A v for `values` (1 or M, N, R), (M, N', R)."""
        return torch.cat([self.rows(some).to(values.dtype) @ values for some in self._chunks()], 1)

    def _chunks(self) -> Iterator[Tensor]:
        at_once = max(1, ELEMENTS // (self.heads * self.shape[1]))
        return iter(torch.arange(self.shape[0]).split(at_once))


@dataclass(frozen=True, kw_only=True)
class Dense(Form):
    """The matrix itself (M, N', N), for small N alone."""

    matrix: Tensor

    @property
    def heads(self) -> int:  # type: ignore[override]
        return self.matrix.shape[0]

    @property
    def shape(self) -> tuple[int, int]:  # type: ignore[override]
        return self.matrix.shape[1], self.matrix.shape[2]

    def rows(self, positions: Tensor) -> Tensor:
        return self.matrix[:, positions]

    def columns(self, positions: Tensor) -> Tensor:
        return self.matrix[:, :, positions]


@dataclass(frozen=True, kw_only=True)
class Factors(Form):
    """A = left right^T with (M, N', r) and (M, N, r); what normalises rows is in `left` already."""

    left: Tensor
    right: Tensor

    @property
    def heads(self) -> int:  # type: ignore[override]
        return self.left.shape[0]

    @property
    def shape(self) -> tuple[int, int]:  # type: ignore[override]
        return self.left.shape[1], self.right.shape[1]

    def rows(self, positions: Tensor) -> Tensor:
        return self.left[:, positions] @ self.right.mT

    def columns(self, positions: Tensor) -> Tensor:
        return self.left @ self.right[:, positions].mT

    def pull(self, weights: Tensor) -> Tensor:
        return (weights @ self.left.to(weights.dtype)) @ self.right.mT.to(weights.dtype)

    def push(self, values: Tensor) -> Tensor:
        return self.left.to(values.dtype) @ (self.right.mT.to(values.dtype) @ values)


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

    The entry at row a and column b of a kernel weighs the place (a - k // 2, b - k' // 2) times `dilation` away. Beyond the grid lie zeros, or what `padding` says; with "mean" a row is divided by the sizes of its kernel's
    entries within the grid and multiplied by all of theirs. Prefix tokens gather nothing and give nothing.
    """

    kernel: Tensor
    grid: Grid
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


@dataclass(frozen=True, kw_only=True)
class Product(Form):
    """A = second first: what `second` gathers from what `first` gathered, as in axial attention."""

    second: Form
    first: Form

    @property
    def heads(self) -> int:  # type: ignore[override]
        return max(self.second.heads, self.first.heads)

    @property
    def shape(self) -> tuple[int, int]:  # type: ignore[override]
        return self.second.shape[0], self.first.shape[1]

    def rows(self, positions: Tensor) -> Tensor:
        return self.first.pull(self.second.rows(positions))

    def columns(self, positions: Tensor) -> Tensor:
        return self.second.push(self.first.columns(positions))

    def pull(self, weights: Tensor) -> Tensor:
        return self.first.pull(self.second.pull(weights))

    def push(self, values: Tensor) -> Tensor:
        return self.second.push(self.first.push(values))


@dataclass(frozen=True, kw_only=True)
class Sum(Form):
    """A weighted sum: pairs of a weight, (1,) or one a head, and a form; heads are repeated up to their least multiple.

    Head m of M stands for heads m L / M, ... of L.
    """

    parts: tuple[tuple[Tensor, Form], ...]

    @property
    def heads(self) -> int:  # type: ignore[override]
        return math.lcm(*(count for weight, form in self.parts for count in (len(weight), form.heads)))

    @property
    def shape(self) -> tuple[int, int]:  # type: ignore[override]
        return self.parts[0][1].shape

    def rows(self, positions: Tensor) -> Tensor:
        return self._summed([form.rows(positions) for _, form in self.parts])

    def columns(self, positions: Tensor) -> Tensor:
        return self._summed([form.columns(positions) for _, form in self.parts])

    def pull(self, weights: Tensor) -> Tensor:
        parts, together = [], weights.shape[0]
        for _, form in self.parts:
            # Neighbouring heads that share one of the form's stand side by side as more rows.
            heads = min(form.heads, together)
            found = form.pull(weights.unflatten(0, (heads, -1)).flatten(1, 2))
            parts.append(found.unflatten(1, (together // heads, -1)).flatten(0, 1))
        return self._summed(parts)

    def push(self, values: Tensor) -> Tensor:
        parts, together = [], values.shape[0]
        for _, form in self.parts:
            heads = min(form.heads, together)
            found = form.push(values.unflatten(0, (heads, -1)).transpose(1, 2).flatten(2))
            parts.append(found.unflatten(2, (together // heads, -1)).movedim(2, 1).flatten(0, 1))
        return self._summed(parts)

    def _summed(self, found: list[Tensor]) -> Tensor:
        heads = self.heads
        return torch.stack(
            [
                weight.to(each).repeat_interleave(heads // len(weight)).view(-1, 1, 1)
                * each.repeat_interleave(heads // each.shape[0], 0)
                for (weight, _), each in zip(self.parts, found, strict=True)
            ]
        ).sum(0)
