"""A mixture of two affinities with learnable weights (Eq. 7)."""

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from contagg.affinity.base import Affinity, Grid, spread
from contagg.affinity.forms import Form, Sum
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


class FixedGate(nn.Module):
    """Nothing to learn: the static affinity is added as it is (appendix B), or weights of an inference form.

    None stands for 1, also where a weight lies in its affinity's parameters.
    """

    alpha: Tensor | None
    beta: Tensor | None

    def __init__(self, alpha: Tensor | None, beta: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("alpha", alpha)
        self.register_buffer("beta", beta)

    def forward(self) -> tuple[Tensor | None, Tensor | None]:
        return self.alpha, self.beta


def build_gate(word: GateWord, heads: int) -> nn.Module:
    """The gate of a word; `/head` gives one weight per head instead of one a layer."""
    kinds = {"free": FreeGate, "sigmoid": SigmoidGate}
    if word == "sum":
        return FixedGate(None, None)
    kind, _, a_head = word.partition("/")
    if kind not in kinds or a_head not in ("", "head"):
        allowed = ("free", "free/head", "sigmoid", "sigmoid/head", "sum")
        raise UserError(f"gate {word!r} is not one of {', '.join(allowed)}.{nearest(word, allowed)}")
    return kinds[kind](heads if a_head else 1)


def weighed(tokens: Tensor, weight: Tensor | None) -> Tensor:
    """(B, N, C) times a weight, (1,) or one a head; None is 1."""
    return tokens if weight is None else spread(weight, tokens.shape[2]) * tokens


class Mixture(Affinity):
    """alpha A + beta S. Neither is formed to aggregate, for (alpha A + beta S) V = alpha A V + beta S V.

    Args:
        first, second: A and S.
        gate: A word, or a module that gives alpha and beta, (1,) or one a head of A each, or None for 1.
    """

    def __init__(self, first: Affinity, second: Affinity, gate: GateWord | nn.Module = "free") -> None:
        super().__init__()
        self.first = first
        self.second = second
        self.gate = gate if isinstance(gate, nn.Module) else build_gate(gate, first.heads)
        weights = [len(weight) for weight in self.gate() if weight is not None]
        self.heads = math.lcm(first.heads, second.heads, *weights)
        self.dynamic = first.dynamic or second.dynamic
        self.forms_matrix = first.forms_matrix or second.forms_matrix
        self.prefix = max(first.prefix, second.prefix)
        self.grid = first.grid or second.grid
        self.local = None if first.local is None or second.local is None else max(first.local, second.local)
        self.dynamic_first = first.dynamic
        self.opening: Tensor | None = None  # z (1,), a factor of the dynamic part; None is 1
        self.closed = False  # whether z is 0, so that the dynamic part is not computed

    __jit_unused_properties__: ClassVar[list[str]] = ["bias"]

    @property
    def bias(self) -> Tensor | None:  # type: ignore[override]
        """The affinities' own, as the gate weighs them."""
        parts = [spread(weight, len(term.bias)) * term.bias for term, weight in self.terms() if term.bias is not None]
        return torch.stack(parts).sum(0) if parts else None

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        alpha, beta = self.weights()
        if self.closed and self.dynamic_first:
            return weighed(self.second(values, tokens, grid, mask), beta)
        if self.closed:
            return weighed(self.first(values, tokens, grid, mask), alpha)
        first, second = self.first(values, tokens, grid, mask), self.second(values, tokens, grid, mask)
        second = weighed(second, beta)
        if alpha is None:
            return first + second
        alpha = spread(alpha, values.shape[2])
        # An inference form whose second gate is folded away takes one pass instead of a product and a sum.
        return torch.addcmul(second, first, alpha) if beta is None else alpha * first + second

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        first, second = (
            spread(weight.to(tokens), self.heads)[:, None, None]
            * term.rows(tokens, grid, positions, mask).repeat_interleave(self.heads // term.heads, 1)
            for term, weight in self.terms()
        )
        return first + second

    def form(self, tokens: Tensor, grid: Grid) -> Form | None:
        first, second = self.first.form(tokens, grid), self.second.form(tokens, grid)
        alpha, beta = (weight.to(tokens) for _, weight in self.terms())
        return None if first is None or second is None else Sum(parts=((alpha, first), (beta, second)))

    def weights(self) -> tuple[Tensor | None, Tensor | None]:
        """alpha and beta, that of the dynamic part times z. None stands for 1."""
        alpha, beta = self.gate()
        if self.opening is None:
            return alpha, beta
        if self.dynamic_first:
            return self.opening if alpha is None else self.opening * alpha, beta
        return alpha, self.opening if beta is None else self.opening * beta

    def multiply_adds(self, grid: Grid) -> int:
        parts = [self.static_part()[0]] if self.closed else [self.first, self.second]
        return sum(part.multiply_adds(grid) for part in parts)

    def terms(self) -> list[tuple[Affinity, Tensor]]:
        weights = [torch.ones(1) if weight is None else weight for weight in self.weights()]
        if self.closed:
            weights[not self.dynamic_first] = torch.zeros_like(weights[not self.dynamic_first])
        return list(zip((self.first, self.second), weights, strict=True))

    def closable(self) -> "Mixture | None":
        return None if self.first.dynamic == self.second.dynamic else self

    def open(self, z: Tensor | None = None) -> None:
        """Multiply the dynamic part by z, (1,); None is 1."""
        self.opening, self.closed = z, False

    def close(self) -> None:
        """Pass over the dynamic part until it is opened again."""
        self.opening, self.closed = None, True

    def dynamic_part(self) -> Affinity:
        """What closing passes over."""
        return self.first if self.dynamic_first else self.second

    def static_part(self) -> tuple[Affinity, Tensor | None]:
        """What closing leaves, and its weight, (1,) or one a head, None for 1."""
        alpha, beta = self.gate()
        return (self.second, beta) if self.dynamic_first else (self.first, alpha)

    def projections(self) -> list[nn.Linear] | None:
        first, second = self.first.projections(), self.second.projections()
        return None if first is None or second is None else [*first, *second]

    def fold(self, gate: Tensor) -> Affinity:
        """Weights go into the affinities that take them, which become one where they can."""
        return _folded(self.terms(), gate)

    def resize(self, grid: Grid) -> None:
        """Both."""
        self.first.resize(grid)
        self.second.resize(grid)
        self.grid = self.first.grid or self.second.grid

    def serves(self, grid: Grid) -> bool:
        return self.first.serves(grid) and self.second.serves(grid)


def _folded(terms: list[tuple[Affinity, Tensor]], gate: Tensor) -> Affinity:
    folded, left = [], []
    for term, weight in terms:
        count = math.lcm(len(weight), len(gate))
        weight = spread(weight.to(gate), count) * spread(gate, count)
        form = term.fold(weight)
        folded.append(form or term)
        left.append(None if form is not None or bool((weight == 1).all()) else weight)
    if all(weight is None for weight in left) and (merged := folded[0].merge(folded[1])) is not None:
        return merged
    return Mixture(folded[0], folded[1], FixedGate(*left))
