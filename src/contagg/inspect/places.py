"""Which place of an image each token of a layer is, found from gradients, whatever a model does to lay tokens out.

Windows, shifts, grids, padding, mask units and pooling hide where a token of q or v comes from. A token t that is made
of one place alone has a Jacobian J_t from that place only: the image J_t (p s_p) of the map's places, each times its
own number p, is then p times the image J_t s_p. That product is taken as a gradient of a gradient. A token that is made
of many places, as pooled keys are, is found the other way round: each of its places sees the token's number alone.
Shapes: N places of a map, T tokens of a layer's operand.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from contagg.affinity.base import Grid

MOST_PREFIX = 64
"""Tokens before or after a grid, such as class tokens and registers."""
_BASE = 256
"""A number is told by two digits of this base, so that single precision tells them apart."""
_CLEAR = 0.05
"""How far from a whole number a digit may be."""
_FAINT = 1e-12
"""Of the largest square: what is less may be noise, unless its number is whole. Slopes of norms differ as much."""
_TRIES = 4


@dataclass(frozen=True, kw_only=True)
class Map:
    """A tensor of the graph whose places are known.

    Attributes:
        tensor: Of any shape.
        channel: Its axis of channels; the others, in order, are its places.
        slots: (N,), where each place lies: prefix tokens first, then the grid row by row; -1 for none.
        grid, prefix: What the slots count.
    """

    tensor: Tensor
    channel: int
    slots: Tensor
    grid: Grid
    prefix: int = 0


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Tokens of an operand on a map.

    Attributes:
        slots: Of the operand's shape without channels: the slot of each token, -1 for none.
        token_of_slot: Of tokens made of many places, (prefix + H W,): the token, counted along `pooled`, of each slot.
        grid, prefix: What the slots count.
    """

    slots: Tensor
    grid: Grid
    prefix: int
    token_of_slot: Tensor | None = None


def raster(tensor: Tensor) -> Map:
    """A map (B, C, H, W) as convolutions have it: all of the batch lie on one grid."""
    batch, _, height, width = tensor.shape
    slots = torch.arange(height * width).repeat(batch)
    return Map(tensor=tensor, channel=1, slots=slots, grid=(height, width))


def place(operand: Tensor, maps: Sequence[Map], beside: Placed | None = None) -> Placed | None:
    """Find the tokens of an operand (..., T, d) on the first of the maps that they are made of, place by place.

    What that map leaves open, others of the same grid may tell: heads may be made of maps of their own. Tokens that are
    made of many places come last, except on the grid that `beside` lies on.
    """
    if not operand.requires_grad:
        return None
    alike = [each for each in maps if beside is not None and _grid(each) == _grid(beside)]
    for some, ways in ((alike, (_placed, _pooled)), (maps, (_placed,)), (maps, (_pooled,))):
        for way in ways:
            for index, candidate in enumerate(some):
                if (found := way(operand, candidate)) is not None:
                    return filled(found, operand, some[index + 1 :])
    return None


def sources(operand: Tensor, candidate: Map) -> Tensor | None:
    """The slot on a map that each token of an operand (..., T, d) is made of, (..., T), -1 for none.

    None where a token is made of more than one, or all of none.
    """
    tensor, channel = candidate.tensor, candidate.channel
    probe = torch.zeros_like(operand, requires_grad=True)
    (pulled,) = torch.autograd.grad(operand, tensor, probe, create_graph=True, retain_graph=True, allow_unused=True)
    if pulled is None or not pulled.requires_grad:
        return None
    slots = candidate.slots.to(tensor.device)
    held = _along(slots >= 0, tensor, channel)

    def image(factor: Tensor | None, seed: int) -> Tensor:
        weight = held * _signs(tensor, seed)
        weight = weight if factor is None else weight * _along(factor, tensor, channel)
        (found,) = torch.autograd.grad(pulled, probe, weight, retain_graph=True)
        return found

    try:
        return _numbers(image, slots.clamp_min(0), operand.ndim - 1)
    except RuntimeError as error:
        if "derivative for" not in str(error):  # of a derivative, which some of torch's functions have none of
            raise
        return None


def targets(operand: Tensor, number: Tensor, tensor: Tensor, channel: int) -> Tensor | None:
    """The `number` of the one token of an operand that each place of a tensor goes into, (N,), -1 for none.

    Args:
        number: A whole number for each token, broadcast to the operand.
    """

    def image(factor: Tensor | None, seed: int) -> Tensor | None:
        weight = _signs(operand, seed) if factor is None else _signs(operand, seed) * factor
        (found,) = torch.autograd.grad(operand, tensor, weight, retain_graph=True, allow_unused=True)
        return found

    found = _numbers(image, number, channel)
    return None if found is None else found.flatten()


def filled(found: Placed, operand: Tensor, others: Sequence[Map]) -> Placed:
    """What was left open, from other maps of the same grid."""
    for other in others:
        if found.token_of_slot is not None or (found.slots >= 0).all():
            break
        more = sources(operand, other) if _grid(other) == _grid(found) else None
        if more is not None:
            found = replace(found, slots=torch.where(found.slots < 0, more, found.slots))
    return found


def _numbers(image: Callable[[Tensor | None, int], Tensor | None], number: Tensor, channel: int) -> Tensor | None:
    """Numbers from the images of one, of the low and of the high digits; None where one of them is not whole.

    An image may be too small by chance for its number to be told: then other random signs are tried.
    """
    found = None
    for seed in range(_TRIES):
        seen = _digits(lambda factor, seed=seed: image(factor, seed), number, channel)  # type: ignore[misc]
        if seen is None:
            return None
        value, clear, held = seen
        if found is None:
            if 2 * (clear & held).sum() < held.sum():
                return None
            found, left = value, held
        found = torch.where(clear, value, found)
        left = left & ~clear
        if not left.any():
            return torch.where(held, found, -1).cpu()
    return None


def _digits(
    image: Callable[[Tensor | None], Tensor | None], number: Tensor, channel: int
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Numbers, which of them are whole, and which there are."""
    one = image(None)
    if one is None:
        return None
    size = one.square().sum(channel)
    held, faint = size > torch.finfo(size.dtype).tiny, size <= _FAINT * size.max()
    found, clear = torch.zeros_like(held, dtype=torch.long), torch.ones_like(held)
    for step, digit in ((1, number % _BASE), (_BASE, number // _BASE)):
        if not held.any() or (step > 1 and not digit.any()):
            break
        seen = image(digit)
        assert seen is not None
        value = (seen * one).sum(channel) / size.clamp_min(torch.finfo(size.dtype).tiny)
        rest = (seen - value.unsqueeze(channel) * one).square().sum(channel)
        whole = value.round()
        clear &= ((value - whole).abs() < _CLEAR) & (rest <= _CLEAR**2 * size)
        found += step * whole.long()
    held &= clear | ~faint
    return (found, clear, held) if held.any() else None


def _grid(each: Map | Placed) -> tuple[Grid, int]:
    return each.grid, each.prefix


def _placed(operand: Tensor, candidate: Map) -> Placed | None:
    slots = sources(operand, candidate)
    if slots is None or not (slots >= 0).any():
        return None
    return Placed(slots=slots, grid=candidate.grid, prefix=candidate.prefix)


def _pooled(operand: Tensor, candidate: Map) -> Placed | None:
    """Tokens that are made of many places each, of which none goes into two; heads are the axis before the tokens."""
    axis = operand.ndim - 2
    number = torch.arange(operand.shape[axis], device=operand.device)[:, None]
    found = targets(operand, number, candidate.tensor, candidate.channel)
    if found is None:
        return None
    held = (found >= 0) & (candidate.slots >= 0)
    slots = torch.full(operand.shape[:-1], -1)
    if operand.ndim == 2 and len(found[held].unique()) == len(found[held]):  # one each after all
        slots[found[held]] = candidate.slots[held]
        return Placed(slots=slots, grid=candidate.grid, prefix=candidate.prefix)
    token_of_slot = torch.full((candidate.prefix + math.prod(candidate.grid),), -1)
    token_of_slot[candidate.slots[held]] = found[held]
    return Placed(slots=slots, grid=candidate.grid, prefix=candidate.prefix, token_of_slot=token_of_slot)


def _along(number: Tensor, tensor: Tensor, channel: int) -> Tensor:
    """A number a place, (N,), in the shape of the tensor with one channel."""
    shape = [length for axis, length in enumerate(tensor.shape) if axis != channel]
    return number.view(shape).unsqueeze(channel).to(tensor.dtype)


def _signs(tensor: Tensor, seed: int) -> Tensor:
    """Random numbers, always the same: a sum over channels may be constant, as after a norm."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype).to(tensor.device)
