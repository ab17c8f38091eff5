"""Arms of equal cost: widths scaled until a network has as many multiply-adds or parameters as another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from timm.models.vision_transformer import VisionTransformer

from contagg.errors import UserError, named
from contagg.lab.arms import Arm, Arms
from contagg.lab.making import Opener
from contagg.lab.sizes import Size, size, validation_images
from contagg.nn.network import Container

CLOSE = 0.01
"""How far costs may differ and count as equal."""
STEPS = (8, 16, 32, 64, 4)
"""Multiples that widths are rounded to: coarser ones where heads do not divide by 8, and 4 where 8 is too coarse."""

Dims = tuple[int, ...]


@dataclass(frozen=True)
class Widths:
    """What of a network is scaled.

    Attributes:
        option: Of the network: `embed_dims` of four stages, or `embed_dim` of a plain transformer.
        start: Its value.
        steps: Multiples that widths are rounded to.
    """

    option: str
    start: Dims
    steps: tuple[int, ...] = STEPS

    def value(self, dims: Dims) -> list[int] | int:
        """As the option takes them."""
        return list(dims) if self.option == "embed_dims" else dims[0]


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
        UserError: a network that has neither `embed_dims` nor `embed_dim`.
    """
    target = _cost(size(opener.job(arms.recipe)), by)
    print(f"the recipe's network: {target:,} {by}", flush=True)
    for arm in arms.arms:
        with named(f"arm {arm.name!r}"):
            job = opener.job(arm.recipe)
            widths, image = _widths(job), validation_images(job)[:1]
            found = nearest_dims(widths.start, partial(_cost_of, arm, opener, widths, image, by), target, widths.steps)
        note = "" if abs(found.off) <= CLOSE else ", the nearest that was reached"
        value = widths.value(found.dims)
        print(f"{arm.name}: {widths.option} {value}, {found.off:+.1%} {by}{note}", flush=True)
        if found.dims != widths.start:
            arms = arms.changed(arm, {f"model.options.{widths.option}": value})
    return arms


def nearest_dims(start: Dims, cost: Callable[[Dims], int], target: int, steps: Sequence[int] = STEPS) -> Match:
    """Widths in the proportions of `start` whose cost is within CLOSE of `target`, or the nearest that were found.

    Args:
        cost: Of widths; UserError for widths that the heads do not divide.
        steps: Multiples that widths are rounded to, one after the other.
    """
    known: dict[Dims, Match] = {}

    def tried(dims: Dims) -> Match:
        if dims not in known:
            known[dims] = Match(dims, cost(dims) / target - 1)
        return known[dims]

    if abs(tried(start).off) <= CLOSE:
        return known[start]
    for step in steps:
        try:
            found = _descend(start, _bisect(start, step, tried), step, tried)
        except UserError:
            continue
        if abs(found.off) <= CLOSE:
            return found
    return min(known.values(), key=lambda match: abs(match.off))


def _bisect(start: Dims, step: int, tried: Callable[[Dims], Match]) -> tuple[Match, float]:
    """The best of a common factor for all widths, each rounded to a multiple of `step`; and the factor."""
    low, high = 0.1, 1.0
    while tried(_scaled(start, high, step)).off < 0 and high < 64:
        low, high = high, high * 2
    best = tried(_scaled(start, high, step)), high
    for _ in range(10):
        middle = (low * high) ** 0.5
        now = tried(_scaled(start, middle, step))
        best = min(best, (now, middle), key=lambda found: abs(found[0].off))
        low, high = (middle, high) if now.off < 0 else (low, middle)
    return best


def _descend(start: Dims, scaled: tuple[Match, float], step: int, tried: Callable[[Dims], Match]) -> Match:
    """Single widths a step up or down, and pairs against each other, while that comes nearer.

    None goes farther than a step from what the common factor asks for, so that the proportions stay.
    """
    best, factor = scaled
    places = range(len(start))
    moves = [{place: sign * step} for place in places for sign in (-1, 1)]
    moves += [{one: step, other: -step} for one in places for other in places if one != other]
    for _ in range(4):
        if abs(best.off) <= CLOSE:
            break
        near = [tuple(max(step, width + move.get(at, 0)) for at, width in enumerate(best.dims)) for move in moves]
        near = [d for d in near if all(abs(w - factor * s) <= step for w, s in zip(d, start, strict=True))]
        now = min((tried(dims) for dims in near), key=lambda match: abs(match.off), default=best)
        if abs(now.off) >= abs(best.off):
            break
        best = now
    return best


def _scaled(dims: Sequence[int], factor: float, step: int) -> Dims:
    return tuple(max(step, round(width * factor / step) * step) for width in dims)


def _cost_of(arm: Arm, opener: Opener, widths: Widths, image: Any, by: str, dims: Dims) -> int:
    """Of an arm with these widths. UserError where it cannot have them."""
    options = {**arm.recipe.model.options, widths.option: widths.value(dims)}
    recipe = replace(arm.recipe, model=replace(arm.recipe.model, options=options))
    return _cost(size(opener.job(recipe), image), by)


def _cost(of: Size, by: str) -> int:
    return of.multiply_adds if by == "macs" else of.parameters


def _widths(job: Any) -> Widths:
    for module in job.task.modules():
        if isinstance(module, Container):
            return Widths("embed_dims", module.config.embed_dims)
        if isinstance(module, VisionTransformer):
            first: Any = module.blocks[0]
            heads = first.attn.num_heads  # as many stay, each of a multiple of 8, 4, 2 or 1 channels
            return Widths("embed_dim", (module.embed_dim,), (8 * heads, 4 * heads, 2 * heads, heads))
    raise UserError("--match scales embed_dims, or embed_dim of a plain transformer: this network has neither")
