"""A mixture of two affinities with learnable weights (Eq. 7)."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from contagg.affinity.base import Affinity, Grid
from contagg.errors import UserError, nearest

GateWord = Literal["free", "free/head", "sigmoid", "sigmoid/head", "sum"]


class FreeGate(nn.Module):
    """alpha and beta are free parameters (Eq. 7), a scalar each or one a head; both start at 1/2."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((count,), 0.5))
        self.beta = nn.Parameter(torch.full((count,), 0.5))

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.alpha, self.beta


class SigmoidGate(nn.Module):
    """alpha = sigmoid(w), beta = 1 - alpha, w starting at 0: the form that the authors released."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(count))

    def forward(self) -> tuple[Tensor, Tensor]:
        alpha = self.weight.sigmoid()
        return alpha, 1 - alpha


class SumGate(nn.Module):
    """alpha = beta = 1, nothing to learn: the static affinity is added as it is (appendix B)."""

    one: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("one", torch.ones(1), persistent=False)

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.one, self.one


def build_gate(word: GateWord, heads: int) -> nn.Module:
    """The gate of a word; `/head` gives one weight a head instead of one a layer."""
    kinds = {"free": FreeGate, "sigmoid": SigmoidGate}
    if word == "sum":
        return SumGate()
    kind, _, a_head = word.partition("/")
    if kind not in kinds or a_head not in ("", "head"):
        allowed = ("free", "free/head", "sigmoid", "sigmoid/head", "sum")
        raise UserError(f"gate {word!r} is not one of {', '.join(allowed)}.{nearest(word, allowed)}")
    return kinds[kind](heads if a_head else 1)


class Mixture(Affinity):
    """alpha A + beta S. Neither is formed to aggregate, for (alpha A + beta S) V = alpha A V + beta S V."""

    def __init__(self, first: Affinity, second: Affinity, gate: GateWord = "free") -> None:
        super().__init__()
        self.first = first
        self.second = second
        self.gate = build_gate(gate, first.heads)
        self.heads = math.lcm(first.heads, second.heads)
        self.dynamic = first.dynamic or second.dynamic

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor) -> Tensor:
        alpha, beta = (spread(weight, self.heads)[:, None, None] for weight in self.gate())
        first, second = (
            affinity.rows(tokens, grid, positions).repeat_interleave(self.heads // affinity.heads, 1)
            for affinity in (self.first, self.second)
        )
        return alpha * first + beta * second

    def aggregate(self, values: Tensor, tokens: Tensor, grid: Grid) -> Tensor:
        alpha, beta = (spread(weight, values.shape[2]) for weight in self.gate())
        return alpha * self.first.aggregate(values, tokens, grid) + beta * self.second.aggregate(values, tokens, grid)

    def shift(self) -> Tensor | None:
        parts = [
            spread(weight, len(shift)) * shift
            for weight, shift in zip(self.gate(), (self.first.shift(), self.second.shift()), strict=True)
            if shift is not None
        ]
        return torch.stack(parts).sum(0) if parts else None


def spread(weight: Tensor, count: int) -> Tensor:
    """A weight a layer (1,) or a head (M,) for `count` heads or channels; a layer's stays (1,) and broadcasts."""
    return weight if len(weight) == 1 else weight.repeat_interleave(count // len(weight))
