"""Arms of equal cost: `embed_dims` scaled until a network has as many multiply-adds or parameters as another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from contagg.errors import UserError
from contagg.lab.arms import Arms
from contagg.lab.costs import Size, size
from contagg.lab.making import Opener
from contagg.nn.network import Container

CLOSE = 0.01
"""How far costs may differ and count as equal."""
STEPS = (32, 16, 8, 4)
"""Multiples that widths are rounded to: the coarsest first, which serves most heads and machines."""
DIMS = "model.options.embed_dims"

Dims = tuple[int, ...]


@dataclass(frozen=True)
class Match:
    """Widths, and how far their cost is from the one that was asked for, as a fraction of it."""

    dims: Dims
    off: float


def match(arms: Arms, opener: Opener, by: str) -> Arms:
    """Each arm with the widths that cost what the recipe's own network costs; says what was reached.

    Args:
        by: macs or params.

    Raises:
        UserError: a network that has no `embed_dims`.
    """
    target = _cost(size(opener.job(arms.recipe, {})), by)
    print(f"the recipe's network: {target:,} {by}", flush=True)
    given = arms

    def cost(name: str, dims: Dims) -> int:
        own = given.changed(given[name], {DIMS: list(dims)})[name]
        return _cost(size(opener.job(own.recipe, own.changes)), by)

    for arm in given.arms:
        start = _dims(opener.job(arm.recipe, arm.changes), arm.name)
        found = nearest_dims(start, partial(cost, arm.name), target)
        note = "" if abs(found.off) <= CLOSE else ", the nearest that was reached"
        print(f"{arm.name}: embed_dims {list(found.dims)}, {found.off:+.1%} {by}{note}", flush=True)
        if found.dims != start:
            arms = arms.changed(arm, {DIMS: list(found.dims)})
    return arms


def nearest_dims(start: Dims, cost: Callable[[Dims], int], target: int) -> Match:
    """Widths in the proportions of `start` whose cost is within CLOSE of `target`, or the nearest that were found.

    Args:
        cost: Of widths; UserError for widths that the heads do not divide.
    """
    known: dict[Dims, Match] = {}

    def tried(dims: Dims) -> Match:
        if dims not in known:
            known[dims] = Match(dims, cost(dims) / target - 1)
        return known[dims]

    if abs(tried(start).off) <= CLOSE:
        return known[start]
    for step in STEPS:
        try:
            found = _descend(_bisect(start, step, tried), step, tried)
        except UserError:
            break  # finer multiples serve these heads no better
        if abs(found.off) <= CLOSE:
            return found
    return min(known.values(), key=lambda match: abs(match.off))


def _bisect(start: Dims, step: int, tried: Callable[[Dims], Match]) -> Match:
    """The best of a common factor for all widths, each rounded to a multiple of `step`."""
    low, high = 0.1, 1.0
    while tried(_scaled(start, high, step)).off < 0 and high < 64:
        low, high = high, high * 2
    best = tried(_scaled(start, high, step))
    for _ in range(10):
        middle = (low * high) ** 0.5
        now = tried(_scaled(start, middle, step))
        best = min(best, now, key=lambda match: abs(match.off))
        low, high = (middle, high) if now.off < 0 else (low, middle)
    return best


def _descend(best: Match, step: int, tried: Callable[[Dims], Match]) -> Match:
    """Single widths a step up or down, and pairs against each other, while that comes nearer."""
    places = range(len(best.dims))
    moves = [{place: sign * step} for place in places for sign in (-1, 1)]
    moves += [{one: step, other: -step} for one in places for other in places if one != other]
    for _ in range(4):
        if abs(best.off) <= CLOSE:
            break
        near = [tuple(max(step, width + move.get(at, 0)) for at, width in enumerate(best.dims)) for move in moves]
        now = min((tried(dims) for dims in near), key=lambda match: abs(match.off))
        if abs(now.off) >= abs(best.off):
            break
        best = now
    return best


def _scaled(dims: Sequence[int], factor: float, step: int) -> Dims:
    return tuple(max(step, round(width * factor / step) * step) for width in dims)


def _cost(of: Size, by: str) -> int:
    return of.multiply_adds if by == "macs" else of.parameters


def _dims(job: Any, name: str) -> Dims:
    for module in job.task.modules():
        if isinstance(module, Container):
            return module.config.embed_dims
    raise UserError(f"arm {name!r}: --match scales embed_dims, which this network does not have")
