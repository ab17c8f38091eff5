"""What an affinity does, in numbers per head: how far it reaches, how spread it is, how local it is.

Weights may be negative, so that all of these look at the share |A_ij| / sum_j |A_ij| of a row i. They look at rows and
columns of the grid; class tokens are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from contagg.affinity import Grid
from contagg.affinity.forms import Form
from contagg.errors import UserError
from contagg.inspect.aggregations import aggregations
from contagg.inspect.forms import RecordedLayer

_ELEMENTS = 1 << 22
"""Largest number of elements of rows that are looked at together."""


@dataclass(frozen=True)
class Statistics:
    """(M,) each, the mean over images and positions.

    Attributes:
        distance: Mean distance to what is gathered, Euclidean, in tokens.
        entropy: Of the share, in nats: 0 for one token, log(H W) for all alike.
        within3, within5: The share inside the window of 3 x 3 and 5 x 5 tokens around the position.
    """

    distance: Tensor
    entropy: Tensor
    within3: Tensor
    within5: Tensor


@dataclass(frozen=True, kw_only=True)
class LayerGate:
    """alpha and beta of a layer (Eq. 7), a number each or one a head: (1, 0) for a dynamic affinity alone, (0, 1) for a
    static one."""

    name: str
    stage: int
    block: int
    alpha: list[float]
    beta: list[float]


def gates(model: nn.Module) -> list[LayerGate]:
    """alpha and beta, layer by layer. UserError for a model without affinities of ours."""
    found = []
    for layer in aggregations(model):
        terms = layer.terms()
        weights = [term.weight.tolist() for term in terms]
        if len(terms) == 1:
            weights = [weights[0], [0.0]] if terms[0].affinity.dynamic else [[0.0], weights[0]]
        if terms:
            alpha, beta = weights
            found.append(LayerGate(name=layer.name, stage=layer.stage, block=layer.block, alpha=alpha, beta=beta))
    if not found:
        raise UserError(f"{type(model).__name__} has no affinity of ours, and so no alpha and beta")
    return found


def sample_positions(grid: Grid, count: int = 64) -> list[tuple[int, int]]:
    """At most about `count` places (row, column), evenly spread over the grid; all of a grid that has no more."""
    height, width = grid
    step = max(1, round((height * width / count) ** 0.5))
    return [
        (row, column)
        for row in range((height - 1) % step // 2, height, step)
        for column in range((width - 1) % step // 2, width, step)
    ]


@torch.no_grad()
def form_statistics(
    form: Form, grid: Grid, prefix: int = 0, places: Sequence[tuple[int, int]] | None = None
) -> Statistics:
    """Statistics of A at some places (row, column) of the grid; None looks at all of them.

    Rows are formed a few at a time, so that memory does not grow with N x N.
    """
    places = sample_positions(grid, grid[0] * grid[1]) if places is None else places
    at_once = max(1, _ELEMENTS // (form.heads * form.shape[1]))
    chunks = []
    for start in range(0, len(places), at_once):
        sources = torch.tensor(places[start : start + at_once])
        rows = form.rows(prefix + sources[:, 0] * grid[1] + sources[:, 1])
        chunks.append(_measures(rows[None, ..., prefix:], sources, grid))
    distance, entropy, within3, within5 = torch.cat(chunks, 2).mean((1, 2))
    return Statistics(distance, entropy, within3, within5)


def statistics(layer: RecordedLayer, places: Sequence[tuple[int, int]] | None = None) -> dict[str, Statistics]:
    """Statistics of each term of a layer, over the term's own heads, and of their sum under "mixed".

    Of a layer whose queries lie elsewhere than its keys there are none.
    """
    if layer.targets or layer.target_grid is not None:
        return {}
    forms = {term.name: term.form for term in layer.terms} | {"mixed": layer.mixed}
    return {name: form_statistics(form, layer.grid, layer.prefix, places) for name, form in forms.items()}


def _measures(rows: Tensor, sources: Tensor, grid: Grid) -> Tensor:
    """Rows (B, M, R, H*W) at `sources` (R, 2) -> distance, entropy and the two shares, (4, B, R, M)."""
    size = rows.abs()
    share = size / size.sum(-1, keepdim=True).clamp_min(torch.finfo(size.dtype).tiny)
    axes = (torch.arange(length, device=rows.device) for length in grid)
    targets = torch.cartesian_prod(*axes)
    offsets = (targets - sources[:, None]).to(share.dtype)
    reach = offsets.abs().amax(-1)
    weights = torch.stack([offsets.norm(dim=-1), (reach <= 1).to(share), (reach <= 2).to(share)])
    distance, within3, within5 = torch.einsum("bmrn,krn->kbrm", share, weights)
    entropy = torch.special.entr(share).sum(-1).transpose(1, 2)
    return torch.stack([distance, entropy, within3, within5])
