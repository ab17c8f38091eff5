"""Is a recorded A the model's own? One place's values are changed, and what the layer then gives is compared.

Differences are those of entries of A, or parts of the largest where that is above 1.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from contagg.affinity.forms import Form
from contagg.inspect.operands import Sides
from contagg.inspect.places import Placed

Again = Callable[[Tensor], Tensor]
"""What a layer gives for other values, with all else as it was."""


@torch.no_grad()
def attention_error(form: Form, where: Sides, values: Tensor, placed: Placed, again: Again, *, fixed: int = 0) -> float:
    """The largest difference of an entry of a column, for values (..., m, d); the last `fixed` channels stay."""
    place, step = _place(placed), _step(values, values.shape[-1])
    step[len(step) - fixed :] = 0
    changed = values.detach().clone()
    if placed.token_of_slot is None:
        changed[(placed.slots == place).to(values.device)] += step
    else:
        token = placed.token_of_slot[place]
        changed[..., token, :] += step / (placed.token_of_slot == token).sum()
    difference = where.grouped(again(changed) - again(values.detach()))
    found = difference.new_zeros(difference.shape[1], where.shape[0] + 1, difference.shape[3])
    index = torch.where(where.queries < 0, where.shape[0], where.queries).flatten()
    found.index_add_(1, index, difference.transpose(0, 1).flatten(1, 2))
    column = form.columns(torch.tensor([place]))
    return max(_largest(found[:, :-1], column, step), _transposed(form, column, place))


@torch.no_grad()
def map_error(form: Form, values: Tensor, again: Again) -> float:
    """The same for a map (1, C, H, W), each of whose channels is a head, or all of them one."""
    height, width = values.shape[2:]
    place = (height // 2) * width + width // 2
    step = _step(values, values.shape[1])
    changed = values.detach().clone()
    changed[:, :, height // 2, width // 2] += step
    found = (again(changed) - again(values.detach()))[0].flatten(1)
    column = form.columns(torch.tensor([place]))
    heads = step.repeat_interleave(len(found) // len(step))
    return max(_largest(found[..., None], column, heads[:, None, None]), _transposed(form, column, place))


@torch.no_grad()
def token_error(form: Form, values: Tensor, order: Tensor, again: Again) -> float:
    """The same for values (..., d, N) whose last axis, put into `order`, is the places."""
    place = values.shape[-1] // 2
    step = _step(values, values.shape[-2])
    changed = values.detach().clone()
    changed[..., order[place]] += step
    found = (again(changed) - again(values.detach()))[..., order].reshape(-1, len(step), len(order))[0]
    column = form.columns(torch.tensor([place]))
    return max(_largest(found.T[None], column, step), _transposed(form, column, place))


def slope_error(form: Form, values: Tensor, order: Tensor, output: Tensor) -> float:
    """The largest difference of an entry of a row from the output's own derivative, its mean over channels."""
    place = values.shape[-1] // 2
    (found,) = torch.autograd.grad(output[..., order[place]].sum(), values, retain_graph=True)
    mean = found[..., order].reshape(-1, *values.shape[-2:])[0].mean(0)
    return ((mean - form.rows(torch.tensor([place]))[0, 0]).abs().max() / mean.abs().max().clamp_min(1)).item()


def _place(placed: Placed) -> int:
    """The last that holds a token: in the corner that padding fills up, where there is any."""
    held = placed.slots[placed.slots >= 0] if placed.token_of_slot is None else (placed.token_of_slot >= 0).nonzero()
    return int(held.max())


def _step(values: Tensor, channels: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(channels, generator=generator, dtype=values.dtype).to(values.device)
    return drawn * values.detach().std().clamp_min(1e-6)


def _largest(found: Tensor, column: Tensor, step: Tensor) -> float:
    return ((found - column * step).abs().max() / step.abs().max() / column.abs().max().clamp_min(1)).item()


def _transposed(form: Form, column: Tensor, place: int) -> float:
    """Of the row that holds the column's largest entry."""
    row = int(column.abs().amax((0, 2)).argmax())
    difference = (form.rows(torch.tensor([row]))[:, 0, place] - column[:, row, 0]).abs().max()
    return (difference / column.abs().max().clamp_min(1)).item()
