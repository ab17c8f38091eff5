"""What is known of a layer after a model has seen one image: its A, by the terms that it is a sum of.

Anything that is shown, counted or exported of anyone's model goes through `Recording`. The forms of a matrix themselves
stand beside the affinities, which give their own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from contagg.affinity.base import Grid
from contagg.affinity.forms import Form, Sum


@dataclass(frozen=True, kw_only=True)
class Term:
    """One matrix of a layer and its weight in A: alpha or beta of a mixture, else 1.

    Attributes:
        name: "dynamic" or "static"; what distinguishes it where a layer has two of one kind ("static 2", "prior").
        weight: (1,), or one a head of the gate.
        form: The matrix, not yet weighted.
    """

    name: str
    weight: Tensor
    form: Form


@dataclass(frozen=True, kw_only=True)
class RecordedLayer:
    """A layer that mixes tokens, on one image.

    Attributes:
        name: Of the module, as `named_modules` has it; unique in a recording, where a module mixes twice with a suffix.
        label: For people: "stage 2, block 1".
        grid: (H, W) of the tokens that are gathered from.
        prefix: Tokens before the grid, such as a class token.
        terms: What A is the weighted sum of.
        residual: By lengths of vectors, the mean share of a token's own in what the layer hands on,
            |x| / (|x| + |f(x)|) for x + f(x); None where nothing is added.
        target_grid, target_prefix: Of the tokens that gather, where these are others.
        beside: Matrices that are no part of A but worth showing with it, as the prior of a detector's query.
        order: Where each token of (1, N, C) lies in A, as the model orders them; None where it is N by itself.
        targets: Names of what gathers where that lies on no grid, as a detector's queries; then `target_grid` is None.
        part: What it is of where that has no stages, as a detector's decoder.
    """

    name: str
    label: str
    grid: Grid
    terms: tuple[Term, ...]
    prefix: int = 0
    residual: float | None = None
    target_grid: Grid | None = None
    target_prefix: int = 0
    targets: tuple[str, ...] = ()
    beside: tuple[Term, ...] = ()
    order: Tensor | None = None
    part: str = ""

    @property
    def mixed(self) -> Form:
        """A itself: the only term, or their weighted sum."""
        if len(self.terms) == 1 and bool((self.terms[0].weight == 1).all()):
            return self.terms[0].form
        return Sum(parts=tuple((term.weight, term.form) for term in self.terms))

    @property
    def tokens(self) -> int:
        """N, prefix tokens included."""
        return self.prefix + math.prod(self.grid)

    @property
    def heads(self) -> int:
        """M of the mixed A."""
        return self.mixed.heads


@dataclass(frozen=True, kw_only=True)
class Unshown:
    """A layer that mixes and has no A that could be shown, by its name and why in a few words of plain English."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Recording:
    """The layers of a model in the order in which they ran on one image, and those that cannot be shown.

    `others` is the number of those that were not asked for.
    """

    layers: Sequence[RecordedLayer]
    unshown: Sequence[Unshown] = ()
    others: int = 0
