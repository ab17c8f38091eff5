"""The layers of our networks that aggregate, by stage and block, and how each writes itself down."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from contagg.affinity import Affinity, Grid
from contagg.errors import plural
from contagg.inspect.forms import RecordedLayer
from contagg.inspect.forms import Term as RecordedTerm
from contagg.inspect.stages import labels, stage_and_block
from contagg.nn.aggregation import Aggregation

NO_AFFINITY = "a full or grouped convolution mixes channels, so it is no affinity and has no A"


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
class Layer:
    """An aggregation of a network. Stages and blocks count from 1; a plain transformer is one stage."""

    name: str
    module: Aggregation

    @property
    def stage(self) -> int:
        """From 1."""
        return stage_and_block(self.name)[0]

    @property
    def block(self) -> int:
        """Of its stage, from 1."""
        return stage_and_block(self.name)[1]

    @property
    def label(self) -> str:
        """Stage and block, or the block alone where there are no stages."""
        return labels([self.name])[0]

    def terms(self) -> list[Term]:
        """The affinities that A is a weighted sum of: two for a mixture, else one; none where it has no A."""
        terms: list[Term] = []
        if isinstance(self.module.affinity, Affinity):
            for affinity, weight in self.module.affinity.terms():
                name = "dynamic" if affinity.dynamic else "static"
                if any(term.name == name for term in terms):
                    name += " 2"
                terms.append(Term(name=name, affinity=affinity, weight=weight.detach()))
        return terms


def aggregations(model: nn.Module) -> list[Layer]:
    """All aggregations of a model in its order; none of a network that is not ours."""
    return [
        Layer(name=name, module=module) for name, module in model.named_modules() if isinstance(module, Aggregation)
    ]


@torch.no_grad()
def written_down(layer: Layer, tokens: Tensor, grid: Grid) -> tuple[RecordedLayer | None, str]:
    """A layer's A on the tokens of one image (1, N, C), or why it cannot be had."""
    terms = []
    for term in layer.terms():
        form = term.affinity.form(tokens, grid)
        if form is None:
            kind, count = type(term.affinity).__name__, tokens.shape[1]
            return None, f"A of {kind} has no smaller form, and of {plural(count, 'token')} it is too large"
        terms.append(RecordedTerm(name=term.name, weight=term.weight, form=form))
    if not terms:
        return None, NO_AFFINITY
    prefix = tokens.shape[1] - grid[0] * grid[1]
    recorded = RecordedLayer(name=layer.name, label=layer.label, grid=grid, prefix=prefix, terms=tuple(terms))
    return recorded, ""
