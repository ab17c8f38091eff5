"""Operands of an attention, whatever axes a model gives them, as the forms of A take them.

Shapes: `...` are the axes before tokens, one of them heads and the others groups such as windows; G groups, M heads,
n queries and m keys of a group, N' places that gather and N that are gathered from.
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from contagg.affinity.bands import Sparse
from contagg.affinity.base import Grid
from contagg.affinity.forms import Dense, Factors, Form
from contagg.affinity.scores import Scores
from contagg.inspect.layouts import compact
from contagg.inspect.places import Placed


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Where the tokens of both sides of an attention lie.

    Attributes:
        queries, keys: Slots (G, n) and (G, m), -1 for none.
        key_of_slot: Of pooled keys, (N,); then `keys` are -1.
        shape: (N', N).
        source, target: Grids, and prefix tokens before them; None where class tokens alone gather.
        heads: The axis of `...` that is heads; None for none.
        batch: `...`, broadcast.
    """

    queries: Tensor
    keys: Tensor
    key_of_slot: Tensor | None
    shape: tuple[int, int]
    source: tuple[Grid, int]
    target: tuple[Grid | None, int]
    heads: int | None
    batch: tuple[int, ...]

    def grouped(self, operand: Tensor) -> Tensor:
        """(..., a, b) -> (G, M, a, b)."""
        operand = operand.detach().expand(*self.batch, *operand.shape[-2:])
        if self.heads is None:
            return operand.flatten(0, -3)[:, None] if operand.ndim > 2 else operand[None, None]
        groups = operand.movedim(self.heads, -3)
        return groups.flatten(0, -4) if groups.ndim > 3 else groups[None]


def sides(query: Placed, value: Placed) -> Sides | None:
    """Sort the axes of both. None where tokens were pooled within groups, which no form holds."""
    batch = tuple(torch.broadcast_shapes(query.slots.shape[:-1], value.slots.shape[:-1]))
    queries, keys = (each.slots.expand(*batch, -1) for each in (query, value))
    heads = _heads(queries, keys)
    queries, keys = (_one_head(each, heads) for each in (queries, keys))
    if value.token_of_slot is not None and len(keys) != 1:
        return None
    queries, grid = compact(queries, query.grid, query.prefix)
    alone = not bool((queries >= query.prefix).any())
    target = (None if alone else grid, query.prefix)
    count = [query.prefix + (0 if alone else math.prod(grid)), value.prefix + math.prod(value.grid)]
    return Sides(
        queries=queries,
        keys=keys,
        key_of_slot=value.token_of_slot,
        shape=(count[0], count[1]),
        source=(value.grid, value.prefix),
        target=target,
        heads=heads,
        batch=batch,
    )


def scores(
    where: Sides, query: Tensor, key: Tensor, scale: float, bias: Tensor | None, *, causal: bool = False
) -> Scores:
    """softmax(scale q k^T + bias), with keys that fill windows up counted as one whose value is nothing."""
    query, key = where.grouped(query), where.grouped(key)
    biases = [] if bias is None else [_as_bias(where, bias)]
    if causal:
        shut = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
        biases.append(torch.zeros_like(shut, dtype=query.dtype).masked_fill(~shut, -torch.inf)[None, None])
    form = Scores(
        query=query,
        key=key,
        query_place=where.queries,
        shape=where.shape,
        scale=scale,
        bias=tuple(biases),
        key_place=where.keys if where.key_of_slot is None else None,
        key_of_place=where.key_of_slot,
    )
    return form if where.key_of_slot is not None or (where.keys >= 0).all() else replace(form, sink=_padding(form))


def formed(where: Sides, weights: Tensor) -> Form:
    """Weights (..., n, m) that the model formed itself."""
    weights = where.grouped(weights)
    if where.key_of_slot is not None:
        held = where.key_of_slot >= 0
        counts = where.key_of_slot[held].bincount(minlength=weights.shape[3]).clamp_min(1)
        spread = F.one_hot(where.key_of_slot.clamp_min(0), weights.shape[3]) * held[:, None] / counts
        left = weights.new_zeros(weights.shape[1], where.shape[0] + 1, weights.shape[3])
        left.index_add_(1, _spare(where.queries[0], where.shape[0]), weights[0])
        return Factors(left=left[:, :-1], right=spread.to(left).expand(len(left), -1, -1))
    if len(weights) == 1:
        whole = weights.new_zeros(weights.shape[1], where.shape[0] + 1, where.shape[1] + 1)
        lines, columns = (_spare(each[0], n) for each, n in zip((where.queries, where.keys), where.shape, strict=True))
        whole.index_put_((torch.arange(len(whole))[:, None, None], lines[:, None], columns), weights[0], True)
        return Dense(matrix=whole[:, :-1, :-1])
    return _sparse(where, weights)


def factors(where: Sides, left: Tensor, right: Tensor, *, normalised: bool) -> Factors | None:
    """left (..., n, r) times right (..., m, r) transposed, rows divided by their sums if said; None for many groups."""
    if len(where.queries) != 1 or where.key_of_slot is not None:
        return None
    sides_ = []
    for operand, slots, count in zip((left, right), (where.queries, where.keys), where.shape, strict=True):
        grouped = where.grouped(operand)[0]
        side = grouped.new_zeros(len(grouped), count + 1, grouped.shape[2])
        sides_.append(side.index_add_(1, _spare(slots[0], count), grouped)[:, :-1])
    found = Factors(left=sides_[0], right=sides_[1])
    return rows_divided(found) if normalised else found


def rows_divided(form: Factors) -> Factors:
    """With each row divided by its sum."""
    sums = (form.left * form.right.sum(1, keepdim=True)).sum(2, keepdim=True)
    return replace(form, left=form.left / sums)


def _heads(queries: Tensor, keys: Tensor) -> int | None:
    """The axis along which all places are the same, the last first, those of length 1 last."""
    axes = range(queries.ndim - 2, -1, -1)
    same = [a for a in axes if all(bool((each == each.narrow(a, 0, 1)).all()) for each in (queries, keys))]
    long = [a for a in same if queries.shape[a] > 1]
    return next(iter(long or same), None)


def _one_head(slots: Tensor, heads: int | None) -> Tensor:
    """(..., n) -> (G, n)."""
    slots = slots if heads is None else slots.select(heads, 0)
    return slots.flatten(0, -2) if slots.ndim > 1 else slots[None]


def _as_bias(where: Sides, bias: Tensor) -> Tensor:
    """A mask of any shape that is broadcast, (G or 1, M or 1, n, m), with what is shut out at -inf."""
    if bias.dtype == torch.bool:
        bias = torch.zeros(bias.shape, device=bias.device).masked_fill(~bias, -torch.inf)
    bias = bias.detach()
    missing = len(where.batch) + 2 - bias.ndim
    bias = bias[(None,) * missing]
    groups = [axis for axis in range(len(where.batch)) if axis != where.heads]
    if any(bias.shape[axis] > 1 for axis in groups):
        bias = bias.expand(*(n if a in groups else bias.shape[a] for a, n in enumerate(where.batch)), -1, -1)
    bias = bias[None] if where.heads is None else bias.movedim(where.heads, 0)
    return bias.flatten(1, -3).transpose(0, 1) if bias.ndim > 3 else bias[None]


def _padding(form: Scores) -> Tensor:
    """The logarithm of what keys that lie nowhere take of a softmax, (G, M, n, 1)."""
    groups, heads, queries = form.query.shape[:3]
    assert form.key_place is not None
    found = form.query.new_full((groups, heads, queries, 1), -torch.inf)
    for group in (form.key_place < 0).any(1).nonzero()[:, 0].tolist():
        lost = form.key_place[group] < 0
        part = form.scale * form.query[group] @ form.key[group][:, lost].mT
        for bias in form.bias:
            part = part + bias.expand(groups, heads, queries, -1)[group][..., lost]
        found[group] = part.logsumexp(-1, keepdim=True)
    return found


def _sparse(where: Sides, weights: Tensor) -> Sparse:
    """Weights (G, M, n, m) by the places that gather: as many sets of m as there are queries at one place."""
    slots = where.queries.flatten()
    order = slots.argsort(stable=True)
    order = order[slots[order] >= 0]
    count = slots[order].bincount(minlength=where.shape[0])
    turn = torch.arange(len(order)) - (count.cumsum(0) - count)[slots[order]]
    times, keys = int(count.max()), weights.shape[3]
    entries = weights.new_zeros(weights.shape[1], where.shape[0], times, keys)
    targets = torch.full((where.shape[0], times, keys), -1)
    entries[:, slots[order], turn] = weights.transpose(0, 1).flatten(1, 2)[:, order]
    targets[slots[order], turn] = where.keys.repeat_interleave(where.queries.shape[1], 0)[order]
    return Sparse(weights=entries.flatten(2), targets=targets.flatten(1)[None], places=where.shape[1])


def _spare(slots: Tensor, count: int) -> Tensor:
    """Slots with what lies nowhere behind the last."""
    return torch.where(slots < 0, count, slots)
