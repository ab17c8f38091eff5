"""How the tensors of a running model lie on grids, carried from one to the next.

What a convolution puts out lies on a grid row by row. Any other tensor is laid out by tracing its tokens to one that is
laid out already (`contagg.inspect.places`); class tokens come from none. Mixers are cut out of the graph when they
are recorded, so that what is left of a block, its residual path, goes place by place.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from contagg.affinity.base import Grid
from contagg.inspect.places import MOST_PREFIX, Map, Placed, filled, place, raster

_KEPT = 12
"""Maps that later ones are traced to; older ones are behind a cut."""


class Layouts:
    """The maps of a model that runs on one image (1, C, H, W)."""

    def __init__(self, image: Tensor) -> None:
        self.image = image
        self._maps = [raster(image)]
        self._counts: dict[int, Map] = {}

    def convolved(self, output: Tensor) -> None:
        """Note what a convolution or pooling put out, (1, C, H, W)."""
        if output.ndim == 4 and output.shape[0] == 1 and output.requires_grad and min(output.shape[2:]) > 1:
            self._keep(raster(output))

    def batched(self, values: Tensor, output: Tensor) -> None:
        """Note what a convolution of several maps of one image put out, such as one a head: each on the same grid."""
        found = place(values.movedim(1, -1), self.recent()) if values.shape[0] > 1 else None
        if found is None or found.token_of_slot is not None or found.grid != tuple(values.shape[2:]):
            return
        line = torch.arange(math.prod(found.grid)) + found.prefix
        if (found.slots.flatten(1) == line).all():
            self._keep(raster(output))

    def gathered(self, output: Tensor, channel: int, queries: Placed) -> None:
        """Note what an attention put out, which lies where its queries do."""
        self._keep(
            Map(
                tensor=output,
                channel=channel % output.ndim,
                slots=queries.slots.expand(_without(output, channel)).flatten(),
                grid=queries.grid,
                prefix=queries.prefix,
            )
        )

    def cut(self, tensor: Tensor) -> Map | None:
        """A leaf of a new graph in the place of a tensor whose layout is found; None where it is not."""
        found = self.find(tensor)
        if found is None:
            return None
        leaf = tensor.detach().requires_grad_()
        renewed = Map(tensor=leaf, channel=found.channel, slots=found.slots, grid=found.grid, prefix=found.prefix)
        self._keep(renewed)
        return renewed

    def find(self, tensor: Tensor) -> Map | None:
        """Lay a tensor of one image out; None where it is no map or made of no known one place by place."""
        if not tensor.requires_grad:
            return None
        for index, known in enumerate(recent := self.recent()):
            if known.tensor is tensor:
                return known
            for channel in _channels(tensor):
                found = _traced(tensor, channel, recent[index:])
                if found is not None:
                    self._counts[len(found.slots)] = found
                    return found
        return self._alike(tensor)

    def recent(self) -> list[Map]:
        """The maps, the latest first."""
        return self._maps[::-1]

    def counts(self, number: int) -> bool:
        """Whether a map has had as many places, so that an axis may be one of tokens."""
        return number in self._counts

    def _keep(self, new: Map) -> None:
        self._maps = [*self._maps[-_KEPT + 1 :], new]
        self._counts[len(new.slots)] = new

    def _alike(self, tensor: Tensor) -> Map | None:
        """As a map of as many tokens was: behind something that mixes tokens and is not seen through."""
        if tensor.ndim != 3 or len(tensor) != 1 or (known := self._counts.get(tensor.shape[1])) is None:
            return None
        return Map(tensor=tensor, channel=2, slots=known.slots, grid=known.grid, prefix=known.prefix)


def compact(slots: Tensor, grid: Grid, prefix: int) -> tuple[Tensor, Grid]:
    """Slots of queries that lie on every second place and the like, counted on a grid of their own."""
    on_grid = slots[slots >= prefix].unique() - prefix
    rows, columns = (on_grid // grid[1]).unique(), (on_grid % grid[1]).unique()
    if len(on_grid) in (0, math.prod(grid)) or len(on_grid) != len(rows) * len(columns):
        return slots, grid
    row, column = (slots - prefix) // grid[1], (slots - prefix) % grid[1]
    found = torch.searchsorted(rows, row) * len(columns) + torch.searchsorted(columns, column) + prefix
    return torch.where(slots >= prefix, found, slots), (len(rows), len(columns))


def _without(tensor: Tensor, channel: int) -> list[int]:
    """The shape of a tensor without an axis."""
    return [length for axis, length in enumerate(tensor.shape) if axis != channel % tensor.ndim]


def _channels(tensor: Tensor) -> tuple[int, ...]:
    """The axes that may hold channels; none of what is no map of one image."""
    if tensor.ndim == 3 and 1 in tensor.shape[:2]:
        return (2,)
    if tensor.ndim == 4 and len(tensor) == 1:
        return (1, 3) if tensor.shape[1] != tensor.shape[2] else (3, 1)
    return ()


def _traced(tensor: Tensor, channel: int, maps: Sequence[Map]) -> Map | None:
    """By the first of the maps; of tokens that it has no part in, as of queries taken in pieces, others may tell."""
    tokens = tensor.movedim(channel, -1).flatten(0, -2)
    placed = place(tokens, maps[:1])
    if placed is None:
        return None
    placed = filled(placed, tokens, maps[1:])
    found = _coarser(placed) if placed.token_of_slot is not None else (placed.slots, placed.grid)
    if found is None:
        return None
    slots, grid = found
    lost = (slots < 0).nonzero()[:, 0]
    new = len(lost) if tensor.ndim == 3 else 0  # of a map (1, H, W, C) these fill it up
    if new > MOST_PREFIX or len(lost) == len(slots):
        return None
    if not new:
        return Map(tensor=tensor, channel=channel, slots=slots, grid=grid, prefix=placed.prefix)
    # What comes from no place of the image stands before the grid, wherever the model puts it.
    free = [slot for slot in range(placed.prefix) if slot not in slots]
    more = max(0, new - len(free))
    slots = torch.where(slots < 0, slots, slots + more)
    slots[lost] = torch.tensor([*range(more), *(slot + more for slot in free)][:new])
    return Map(tensor=tensor, channel=channel, slots=slots, grid=grid, prefix=placed.prefix + more)


def _coarser(placed: Placed) -> tuple[Tensor, Grid] | None:
    """Tokens that are made of squares and the like, on the grid that these make."""
    assert placed.token_of_slot is not None
    held = (placed.token_of_slot[placed.prefix :] >= 0).nonzero()[:, 0]
    if len(held) == 0 or placed.prefix:
        return None
    token = placed.token_of_slot[placed.prefix :][held]
    count = len(placed.slots)
    size = token.bincount(minlength=count).clamp_min(1)
    some, ranks, lengths = token.unique(), [], []
    for axis in (held // placed.grid[1], held % placed.grid[1]):
        middle = token.bincount(axis.double(), count) / size
        values, rank = middle[some].round(decimals=3).unique(return_inverse=True)
        ranks.append(rank)
        lengths.append(len(values))
    if len(some) != lengths[0] * lengths[1]:
        return None
    slots = torch.full((count,), -1)
    slots[some] = ranks[0] * lengths[1] + ranks[1]
    return slots, (lengths[0], lengths[1])
