"""Recording what each aggregation was given, so that rows of its A can be asked for afterwards, exactly.

The network runs as it always does, on the fast path; a hook keeps each aggregation's input, never an N x N.
Shapes are those of `contagg.affinity.base`: B images, N tokens, M heads, R chosen positions.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from contagg.affinity import Affinity, Grid
from contagg.affinity.base import clear_padding, spread
from contagg.errors import UserError
from contagg.inspect.timm_attention import grid_of, is_plain_attention, self_attention_of
from contagg.nn.aggregation import Aggregation


@dataclass(frozen=True, kw_only=True)
class Term:
    """One affinity of a layer and its weight in A: alpha for a mixture's first, beta for its second, else 1.

    `name` is "dynamic" or "static"; where both affinities of a mixture are of one kind, the second's ends in " 2".
    `weight` is (1,), or one weight per gate's head.
    """

    name: str
    affinity: Affinity
    weight: Tensor


@dataclass(frozen=True, kw_only=True)
class Part:
    """Rows of one affinity, (B or 1, M, R, N) and not yet weighted, and the weight (M,) that they enter A with."""

    rows: Tensor
    weight: Tensor

    @property
    def weighted(self) -> Tensor:
        """The rows as they enter A: their sum over dynamic and static is the mixture's."""
        return self.weight[:, None, None] * self.rows


@dataclass(frozen=True, kw_only=True)
class Layer:
    """An aggregation of a network. Stages and blocks count from 1; a plain transformer is one stage."""

    name: str
    stage: int
    block: int
    module: nn.Module

    @property
    def label(self) -> str:
        """Stage and block, or the block alone where there are no stages."""
        return f"stage {self.stage}, block {self.block}" if "stages." in self.name else f"block {self.block}"

    @property
    def has_affinity(self) -> bool:
        """Whether it has an A; a convolution that mixes channels has none."""
        return not isinstance(self.module, Aggregation) or isinstance(self.module.affinity, Affinity)

    @property
    def affinity(self) -> Affinity:
        """What its A is. UserError where it has none."""
        if not isinstance(self.module, Aggregation):
            return self_attention_of(self.module)
        if isinstance(self.module.affinity, Affinity):
            return self.module.affinity
        raise UserError(f"{self.name}: a full or grouped convolution mixes channels, so it is no affinity and has no A")

    def terms(self) -> list[Term]:
        """The affinities that A is a weighted sum of: two for a mixture, else one."""
        terms: list[Term] = []
        for affinity, weight in self.affinity.terms():
            name = "dynamic" if affinity.dynamic else "static"
            if any(term.name == name for term in terms):
                name += " 2"
            terms.append(Term(name=name, affinity=affinity, weight=weight.detach()))
        return terms


@dataclass(frozen=True, kw_only=True)
class RecordedAggregation(Layer):
    """An aggregation and its input: `tokens` (B, N, C), the last H*W on `grid`; a padded batch has a `mask`."""

    tokens: Tensor
    grid: Grid
    mask: Tensor | None = None

    @property
    def prefix(self) -> int:
        """Tokens before the grid, such as a class token."""
        return self.tokens.shape[1] - self.grid[0] * self.grid[1]

    def token(self, row: int, column: int) -> int:
        """The index of the token at a place of the grid."""
        return self.prefix + row * self.grid[1] + column

    @torch.no_grad()
    def rows(self, positions: Tensor | Sequence[int]) -> Tensor:
        """The rows of A, the whole mixture's, at token indices (R,): (B or 1, M, R, N)."""
        return self.affinity.rows(self.tokens, self.grid, self._indices(positions), self.mask)

    @torch.no_grad()
    def parts(self, positions: Tensor | Sequence[int]) -> dict[str, Part]:
        """The rows of each term and, last and under "mixed", of their weighted sum, all over the layer's M heads."""
        indices, heads = self._indices(positions), self.affinity.heads
        parts = {}
        for term in self.terms():
            rows = term.affinity.rows(self.tokens, self.grid, indices, self.mask)
            rows = rows.repeat_interleave(heads // term.affinity.heads, 1)
            parts[term.name] = Part(rows=rows, weight=spread(term.weight.to(rows), heads).expand(heads))
        mixed = torch.stack(torch.broadcast_tensors(*(part.weighted for part in parts.values()))).sum(0)
        return parts | {"mixed": Part(rows=mixed, weight=mixed.new_ones(heads))}

    def _indices(self, positions: Tensor | Sequence[int]) -> Tensor:
        indices = torch.as_tensor(positions, device=self.tokens.device)
        count = self.tokens.shape[1]
        if indices.ndim != 1 or ((indices < 0) | (indices >= count)).any():
            raise UserError(f"{self.name}: positions {indices.tolist()} must be a list of token indices below {count}")
        return indices


def layers(model: nn.Module) -> list[Layer]:
    """All aggregations of a model in its order: ours, and the plain attention of timm's vision transformers.

    Raises:
        UserError: there is none.
    """
    found = [
        Layer(name=name, stage=_number("stages", name), block=_number("blocks", name), module=module)
        for name, module in model.named_modules()
        if isinstance(module, Aggregation) or is_plain_attention(module)
    ]
    if not found:
        raise UserError(
            f"{type(model).__name__} has no affinity to show; the networks of contagg and timm's vision transformers do"
        )
    return found


@contextmanager
def record(
    model: nn.Module, where: Callable[[Layer], bool] = lambda layer: True
) -> Iterator[list[RecordedAggregation]]:
    """Record the aggregations that run inside the `with`, in the order in which they run.

    Args:
        where: Which of `layers(model)` to record; as `lambda layer: layer.stage == 4`.

    Raises:
        UserError: the model has no aggregations, or `where` chooses none.
    """
    chosen = [layer for layer in layers(model) if where(layer)]
    if not chosen:
        raise UserError(f"no aggregation of {type(model).__name__} was chosen to record")
    recorded: list[RecordedAggregation] = []

    def keep(layer: Layer, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        tokens, grid, mask = (
            (*inputs, None)[:3] if isinstance(module, Aggregation) else (inputs[0], grid_of(model, inputs[0]), None)
        )
        tokens = clear_padding(tokens.detach(), mask)
        recorded.append(RecordedAggregation(**vars(layer), tokens=tokens, grid=grid, mask=mask))

    hooks = [
        layer.module.register_forward_hook(lambda module, inputs, _, layer=layer: keep(layer, module, inputs))
        for layer in chosen
    ]
    try:
        yield recorded
    finally:
        for hook in hooks:
            hook.remove()


def _number(word: str, name: str) -> int:
    """From 1, the number after `word` in a module's name; 1 where the name has none."""
    match = re.search(rf"\b{word}\.(\d+)", name)
    return int(match[1]) + 1 if match else 1
