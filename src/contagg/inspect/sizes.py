"""Sizes of A without its signs, mean over heads: what a composition of layers and a look at columns go by."""

import torch
from torch import Tensor

from contagg.affinity.bands import Band, Sparse
from contagg.affinity.forms import Dense, Form
from contagg.affinity.scores import Scores
from contagg.inspect.forms import RecordedLayer


def mean_sizes(layer: RecordedLayer, weights: Tensor, *, normalised: bool = False) -> Tensor:
    """w |A| for weights (R, N') over the places that gather, (R, N), with |A| the mean over heads.

    |A| of a sum is taken term by term, |alpha| |A| + |beta| |S|: where terms of unlike signs meet it is an upper bound.

    Args:
        normalised: Every row of |A| sums to 1.
    """
    sizes = [(float(term.weight.abs().mean()), _mean_of_heads(term.form)) for term in layer.terms]
    if normalised:
        ones = weights.new_ones(1, layer.tokens, 1)
        sums = torch.stack([weight * form.push(ones).mean(0)[:, 0] for weight, form in sizes]).sum(0)
        weights = weights / sums.clamp_min(1e-30)
    return torch.stack([weight * form.pull(weights[None]).mean(0) for weight, form in sizes]).sum(0)


def _mean_of_heads(form: Form) -> Form:
    """A form without signs whose mean over heads is that of |A|: one head where entries lie at the same places."""
    if isinstance(form, Band) and form.padding in ("zeros", "mean"):
        kernel = form.kernel.detach().abs().mean(-3, keepdim=True)
        return Band(kernel=kernel, grid=form.grid, dilation=form.dilation, padding=form.padding, prefix=form.prefix)
    if isinstance(form, Sparse) and len(form.targets) == 1 and _apart(form.targets[0]):
        return Sparse(weights=form.weights.detach().abs().mean(0, True), targets=form.targets, places=form.places)
    if isinstance(form, Dense):
        return Dense(matrix=form.matrix.detach().abs().mean(0, True))
    return form if isinstance(form, Scores) else _Sizes(form)


def _apart(targets: Tensor) -> bool:
    """Whether no row of targets (N', K) has two entries at one place, whose signs might cancel."""
    places = targets.sort(1).values
    return not bool(((places[:, 1:] == places[:, :-1]) & (places[:, 1:] >= 0)).any())


class _Sizes(Form):
    """|A| of any form, one head, by its rows."""

    heads = 1

    def __init__(self, form: Form) -> None:
        self.form, self.shape = form, form.shape

    def rows(self, positions: Tensor) -> Tensor:
        return self.form.rows(positions).detach().abs().mean(0, True)

    def columns(self, positions: Tensor) -> Tensor:
        return self.form.columns(positions).detach().abs().mean(0, True)
