"""Attention written down: queries and keys of groups of tokens, whose scores a softmax turns into rows of A."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from contagg.affinity.forms import ELEMENTS, Form


@dataclass(frozen=True, kw_only=True)
class Scores(Form):
    """softmax(scale q k^T + bias) within each group, 0 between groups; a row without a key that counts is 0.

    Attributes:
        query, key: (G, M, n, d) and (G, M, m, d).
        query_place, key_place: (G, n) and (G, m), which place each is of, -1 for what fills up a group. What lies at
            one place more than once is summed.
        shape: (N', N), numbers of places that gather and that are gathered from.
        scale: Of the products.
        bias: What is added to the scores, each of a shape that is broadcast to (G, M, n, m): positions, masks. -inf
            shuts a key out.
        sink: Scores of one more key whose value is 0, broadcast to (G, M, n, 1); None for none.
        key_of_place: Instead of `key_place` for pooled keys, (N,): the key g m + j that a place went into, or -1. A
            key's weight is shared out evenly among its places.
    """

    query: Tensor
    key: Tensor
    query_place: Tensor
    shape: tuple[int, int]
    key_place: Tensor | None = None
    scale: float = 1.0
    bias: tuple[Tensor, ...] = field(default=())
    sink: Tensor | None = None
    key_of_place: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.key_place is None) == (self.key_of_place is None):
            raise ValueError("scores need one of key_place and key_of_place")

    @property
    def heads(self) -> int:  # type: ignore[override]
        return self.query.shape[1]

    def rows(self, positions: Tensor) -> Tensor:
        chosen, line = positions.unique(return_inverse=True)
        found = self.query.new_zeros(self.heads, len(chosen), self._keys + 1)
        for group in torch.isin(self.query_place, chosen).any(1).nonzero()[:, 0].tolist():
            index = torch.isin(self.query_place[group], chosen).nonzero()[:, 0]
            target = torch.searchsorted(chosen, self.query_place[group, index])
            for part, lines in zip(index.split(self.at_once), target.split(self.at_once), strict=True):
                entries = (torch.arange(self.heads)[:, None, None], lines[:, None], self._column(group))
                found.index_put_(entries, self.shares(group, part), accumulate=True)
        return shared_out(found[..., :-1], self.key_of_place)[:, line]

    def columns(self, positions: Tensor) -> Tensor:
        every = self.query.new_zeros(self.heads, self.shape[0], len(positions))
        unit = torch.zeros(1, self.shape[1], len(positions), dtype=self.query.dtype)
        unit[0, positions, torch.arange(len(positions))] = 1
        values = of_keys(self, unit)
        for group in (values != 0).any(0).any(-1).unflatten(0, (self.query.shape[0], -1)).any(1).nonzero()[:, 0]:
            self._push_group(every, int(group), values)
        return every

    def pull(self, weights: Tensor) -> Tensor:
        found = weights.new_zeros(self.heads, weights.shape[1], self._keys + 1)
        for group in range(self.query.shape[0]):
            for some in self._queries(group):
                given = weights[:, :, self.query_place[group, some]] @ self.shares(group, some).to(weights.dtype)
                found.index_add_(2, self._column(group), given)
        return shared_out(found[..., :-1], self.key_of_place)

    def push(self, values: Tensor) -> Tensor:
        every = values.new_zeros(self.heads, self.shape[0], values.shape[2])
        values = of_keys(self, values)
        for group in range(self.query.shape[0]):
            self._push_group(every, group, values)
        return every

    def shares(self, group: int, index: Tensor) -> Tensor:
        """What queries `index` (R,) of a group give to its keys, (M, R, m)."""
        shares = self.scores(group, index).softmax(-1).nan_to_num(0.0)
        return shares if self.sink is None else shares[..., :-1]

    def scores(self, group: int, index: Tensor) -> Tensor:
        """What the softmax is of, (M, R, m), and in one more column the sink's where there is one."""
        scores = self.scale * self.query[group, :, index] @ self.key[group].mT
        whole = (self.query.shape[0], self.heads, self.query.shape[2], self.key.shape[2])
        for bias in self.bias:
            scores = scores + bias.expand(whole)[group][:, index].to(scores.dtype)
        if self.key_place is not None:
            scores = scores.masked_fill(self.key_place[group] < 0, -torch.inf)
        if self.sink is not None:
            sink = self.sink.expand(*whole[:3], 1)[group][:, index].to(scores.dtype)
            scores = torch.cat([scores, sink], 2)
        return scores

    @property
    def _keys(self) -> int:
        """Columns that shares are collected in before they are laid on places: places, or pooled keys."""
        return self.shape[1] if self.key_of_place is None else self.key.shape[0] * self.key.shape[2]

    @property
    def at_once(self) -> int:
        """Queries whose scores are held together."""
        return max(1, ELEMENTS // (self.heads * self.key.shape[2]))

    def _column(self, group: int) -> Tensor:
        """Where a group's keys are collected, (m,); the last and spare one is for what fills up."""
        if self.key_place is None:
            count = self.key.shape[2]
            return torch.arange(group * count, (group + 1) * count)
        place = self.key_place[group]
        return torch.where(place < 0, self._keys, place)

    def _push_group(self, every: Tensor, group: int, values: Tensor) -> None:
        """Add A v of a group to `every` (M, N', R), for values of all keys (1 or M, G m, R)."""
        count = self.key.shape[2]
        own = values[:, group * count : (group + 1) * count]
        for some in self._queries(group):
            given = self.shares(group, some).to(own.dtype) @ own
            every.index_add_(1, self.query_place[group, some], given.to(every.dtype))

    def _queries(self, group: int) -> Iterator[Tensor]:
        return iter((self.query_place[group] >= 0).nonzero()[:, 0].split(self.at_once))


def shared_out(found: Tensor, key_of_place: Tensor | None) -> Tensor:
    """What pooled keys are given (M, R, K), evenly on the places of each, (M, R, N); None where keys are places."""
    if key_of_place is None:
        return found
    held = key_of_place >= 0
    counts = key_of_place[held].bincount(minlength=found.shape[2]).clamp_min(1)
    return (found / counts)[..., key_of_place.clamp_min(0)] * held


def of_keys(form: Scores, values: Tensor) -> Tensor:
    """Values (1 or M, N, R) of the places as the keys hold them, (1 or M, G m, R): of pooled keys the means."""
    if form.key_place is not None:
        place = form.key_place.flatten()
        return values[:, place.clamp_min(0)] * (place >= 0)[:, None]
    assert form.key_of_place is not None
    held = (form.key_of_place >= 0).nonzero()[:, 0]
    key, keys = form.key_of_place[held], form.key.shape[0] * form.key.shape[2]
    counts = key.bincount(minlength=keys).clamp_min(1)
    sums = values.new_zeros(values.shape[0], keys, values.shape[2]).index_add_(1, key, values[:, held])
    return sums / counts[:, None]
