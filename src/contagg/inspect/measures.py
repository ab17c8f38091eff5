"""A layer in numbers: how local, how spread, of what rank, how much alike at all places, and who is gathered from most.

All are taken over at most `PLACES` places that are spread over the image and at most `HEADS` heads, of the shares
|A_ij| / sum_j |A_ij| of a row over the grid, prefix tokens left out, but for those in `registers`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from contagg.affinity.base import Grid
from contagg.affinity.forms import ELEMENTS
from contagg.errors import UserError
from contagg.inspect.forms import RecordedLayer
from contagg.inspect.sizes import mean_sizes

PLACES, HEADS = 128, 8
NUMBERS = 2**21
"""Of one head's rows that are looked at: of larger grids fewer places."""
SINK = 10.0
"""Times as much as the mean place that a sink is gathered from."""
MOST_SINKS = 12


@dataclass(frozen=True, kw_only=True)
class Measures:
    """Of one layer, means over heads and places.

    Attributes:
        distance: From a place to what it gathers from, by Euclid, as a part of the grid's longer side.
        within3: Share that lies within the 3 x 3 tokens around a place.
        entropy: Of the share, as a part of the logarithm of the number of tokens: 0 for one token, 1 for all alike.
        rank: exp of the entropy of the singular values of the rows looked at, as a part of their number: 1 where no row
            tells anything of another.
        toeplitz: Part of the rows' sum of squares that is the same at all places, by the offset alone.
        sinks: (row, column, times uniform) of places that all others together gather from `SINK` times as much as from
            the mean one, the strongest first.
        registers: Share that all places together gather from prefix tokens.
    """

    distance: float
    within3: float
    entropy: float
    rank: float
    toeplitz: float
    sinks: list[tuple[int, int, float]]
    registers: float


@torch.no_grad()
def measure(layer: RecordedLayer) -> Measures:
    """The numbers of a layer whose places gather from each other or from another grid.

    Raises:
        UserError: they are not finite, as those of a network whose training has diverged.
    """
    positions, places = gathering(layer, min(PLACES, max(16, NUMBERS // layer.tokens)))
    heads = torch.linspace(0, layer.heads - 1, min(HEADS, layer.heads)).long().unique()
    at_once = max(1, ELEMENTS // (layer.heads * layer.tokens))
    rows = torch.cat([layer.mixed.rows(some)[heads].abs().float() for some in positions.split(at_once)], 1)
    if not bool(rows.isfinite().all()) or not math.isfinite(layer.residual or 0.0):
        raise UserError(f"{layer.name}: its weights are not finite (NaN or infinite); has the training diverged?")
    share = rows[..., layer.prefix :]
    share = share / share.sum(-1, keepdim=True).clamp_min(1e-30)
    received = mean_sizes(layer, torch.full((1, layer.mixed.shape[0]), 1 / layer.mixed.shape[0]))[0]
    received = received / received.sum().clamp_min(1e-30)
    same = layer.target_grid is None and not layer.targets
    distance, within3 = _locality(share, places, layer.grid) if same else (math.nan, math.nan)
    return Measures(
        distance=distance,
        within3=within3,
        entropy=float(torch.special.entr(share).sum(-1).mean()) / math.log(max(2, math.prod(layer.grid))),
        rank=_rank(share),
        toeplitz=_toeplitz(share, places, layer.grid) if same else math.nan,
        sinks=_sinks(received[layer.prefix :], layer.grid),
        registers=float(received[: layer.prefix].sum()),
    )


def gathering(layer: RecordedLayer, most: int) -> tuple[Tensor, Tensor]:
    """At most `most` of what gathers: its indices (R,), and its places (R, 2) where it lies on a grid."""
    if layer.targets:
        positions = torch.linspace(0, len(layer.targets) - 1, min(most, len(layer.targets))).long()
        return positions, positions.new_zeros(len(positions), 2)
    grid, before = (layer.grid, layer.prefix) if layer.target_grid is None else (layer.target_grid, layer.target_prefix)
    places = spread_places(grid, most)
    return before + places[:, 0] * grid[1] + places[:, 1], places


def spread_places(grid: Grid, most: int) -> Tensor:
    """At most `most` places (R, 2) of a grid, in rows and columns that are evenly apart."""
    step = max(1.0, math.sqrt(math.prod(grid) / most))
    counts = [max(1, min(most, round(length / step))) for length in grid]
    while math.prod(counts) > most:
        counts[counts.index(max(counts))] -= 1
    row, column = (
        ((torch.arange(count) + 0.5) * length / count).long() for count, length in zip(counts, grid, strict=True)
    )
    return torch.cartesian_prod(row, column).view(-1, 2)


def _locality(share: Tensor, places: Tensor, grid: Grid) -> tuple[float, float]:
    every = torch.cartesian_prod(*(torch.arange(length) for length in grid)).view(-1, 2)
    offsets = (every - places[:, None]).float()
    distance = torch.einsum("mrn,rn->mr", share, offsets.norm(dim=-1)).mean() / max(max(grid), 1)
    near = torch.einsum("mrn,rn->mr", share, (offsets.abs().amax(-1) <= 1).float()).mean()
    return float(distance), float(near)


def _rank(share: Tensor) -> float:
    values = torch.linalg.eigvalsh(share @ share.mT).clamp_min(0).sqrt()
    values = values / values.sum(-1, keepdim=True).clamp_min(1e-30)
    return float(torch.special.entr(values).sum(-1).exp().mean()) / share.shape[1]


def _toeplitz(share: Tensor, places: Tensor, grid: Grid) -> float:
    """By the mean over places of what an offset weighs, of offsets that more than one place has."""
    size = (2 * grid[0] - 1, 2 * grid[1] - 1)
    every = torch.cartesian_prod(*(torch.arange(length) for length in grid)).view(-1, 2)
    offset = every - places[:, None] + torch.tensor([grid[0] - 1, grid[1] - 1])
    index = (offset[..., 0] * size[1] + offset[..., 1]).flatten()
    counts = torch.zeros(math.prod(size)).index_add_(0, index, torch.ones(len(index)))
    sums = share.new_zeros(len(share), math.prod(size)).index_add_(1, index, share.flatten(1))
    means = (sums / counts.clamp_min(1))[:, index].view(share.shape)
    again = (counts[index] > 1).view(1, *share.shape[1:])
    left, whole = ((share - means).square() * again).sum((1, 2)), (share.square() * again).sum((1, 2))
    return float((1 - left / whole.clamp_min(1e-30)).mean())


def _sinks(received: Tensor, grid: Grid) -> list[tuple[int, int, float]]:
    times = received * len(received) / received.sum().clamp_min(1e-30)
    strongest = times.argsort(descending=True)[:MOST_SINKS].tolist()
    return [(at // grid[1], at % grid[1], float(times[at])) for at in strongest if times[at] >= SINK]
