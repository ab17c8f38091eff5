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

import torch
from torch import Tensor

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
