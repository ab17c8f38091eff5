"""What recurrent mixers share: the orders that tokens are visited in, chunks of them, and a state carried over chunks.

Within a chunk all is matrix products; only the state at its begin is a recurrence, so memory grows linearly with N.
Tokens that are none, beyond the last or in the padding of a batch, must leave the state as it is: a kind sees to that.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from contagg.affinity.base import Grid
from contagg.affinity.squares import is_exporting
from contagg.errors import UserError

Advance = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(state, transition, added) -> the next state."""


class Visits:
    """Orders of N tokens: 1, row by row; 2, backwards as well; or 4, column by column as well. Prefix tokens are first.

    Attributes:
        order: (D, N), the token that is visited at a time.
        place: (D, N), the time at which a token is visited.
        length: L, of a chunk; K chunks cover all tokens.
    """

    def __init__(self, tokens: Tensor, grid: Grid, directions: int, length: int) -> None:
        count, device = tokens.shape[1], tokens.device
        cells = grid[0] * grid[1]
        order = place = torch.arange(count, device=device)[None]
        if directions == 4:
            prefix, cell = order[0, : count - cells], torch.arange(cells, device=device) + (count - cells)
            order, place = (
                torch.stack([order[0], torch.cat([prefix, cell.view(sides).T.flatten()])])
                for sides in (grid, (grid[1], grid[0]))
            )
        if directions > 1:
            order, place = torch.cat([order, order.flip(1)]), torch.cat([place, count - 1 - place])
        self.order, self.place, self.length = order, place, length
        # A graph for any number of tokens must not ask whether there is one chunk: there, one more is empty.
        chunks = (count + length - 1) // length + int(is_exporting())
        time = length * torch.arange(chunks, device=device)[:, None] + torch.arange(length, device=device)
        self._held, self._time = time < count, time.clamp(max=count - 1)

    def held(self, mask: Tensor | None) -> Tensor:
        """(1 or B, D or 1, K, L): where a chunk holds a token, of an image."""
        if mask is None:
            return self._held[None, None]
        visited = mask.flatten(1)[:, self.order]  # batches with masks have no prefix
        return visited[:, :, self._time] & self._held

    def chunks(self, tokens: Tensor) -> Tensor:
        """What all orders read, (B, N, F) -> (B, D, K, L, F)."""
        visited = self.order[:, self._time]
        return tokens.index_select(1, visited.flatten()).unflatten(1, visited.shape)

    def chunks_of_each(self, tokens: Tensor) -> Tensor:
        """What each order has for itself, (B, N, D F) -> (B, D, K, L, F)."""
        count = len(self.order)
        split = tokens.unflatten(2, (count, -1)).flatten(1, 2)
        visited = count * self.order[:, self._time] + torch.arange(count, device=tokens.device)[:, None, None]
        return split.index_select(1, visited.flatten()).unflatten(1, visited.shape)

    def summed(self, chunks: Tensor) -> Tensor:
        """(B, D, K, L, F) -> (B, N, F): what all orders found at a token."""
        size = chunks.shape[2] * self.length
        place = self.place + size * torch.arange(len(self.place), device=chunks.device)[:, None]
        return chunks.flatten(1, 3).index_select(1, place.flatten()).unflatten(1, place.shape).sum(1)


def check_tokens(tokens: Tensor, grid: Grid, prefix: int, what: str) -> None:
    """UserError unless the tokens (B, N, C) are those of the grid and the prefix."""
    if tokens.shape[1] != prefix + grid[0] * grid[1]:
        raise UserError(
            f"{what}: {tokens.shape[1]} tokens are not {prefix} prefix tokens and a grid of {grid[0]} x {grid[1]}"
        )


def full_precision(tokens: Tensor) -> AbstractContextManager[object]:
    """No autocast: the decays of a chunk have the range of fp32."""
    device = tokens.device.type
    lowered = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)  # there is none on "meta"
    return torch.autocast(device, enabled=False) if lowered else nullcontext()


def carried(advance: Advance, transitions: Tensor, added: Tensor) -> Tensor:
    """The state before each chunk, (K, ...), from zeros: s_k+1 = advance(s_k, transitions[k], added[k])."""
    if is_exporting():
        # In a graph the number of chunks is open, and a loop over them is an operation.
        from torch._higher_order_ops.scan import scan

        def combine(state: Tensor, chunk: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return advance(state, *chunk), state.clone()

        return scan(combine, torch.zeros_like(added[0]), (transitions, added))[1]
    states = [torch.zeros_like(added[0])]
    for transition, add in zip(transitions.unbind()[:-1], added.unbind()[:-1], strict=True):
        states.append(advance(states[-1], transition, add))
    return torch.stack(states)
