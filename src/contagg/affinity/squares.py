"""A grid cut into squares of tokens, for windows and pooling; in graphs for any size as well."""

import torch
import torch.nn.functional as F
from torch import Tensor

from contagg.affinity.base import Grid


def is_exporting() -> bool:
    """Whether torch.export makes a graph for any size. TorchScript cannot compile the question."""
    return False if torch.jit.is_scripting() else torch.compiler.is_exporting()


def squares_on(grid: Grid, size: int) -> Grid:
    """How many squares of `size` x `size` tokens cover a grid, down and across."""
    # A graph for any size has one more each way, without a token: a number that may be 1 it would take for always 1.
    more = 1 if is_exporting() else 0
    return (grid[0] + size - 1) // size + more, (grid[1] + size - 1) // size + more


def cut_squares(tokens: Tensor, grid: Grid, size: int, shift: int = 0) -> Tensor:
    """(B, N, C) -> (B, T, T', size, size, C), the squares that cover a grid; the last are filled up with zeros.

    With `shift` all is first rolled towards the top left corner, beyond which it comes in again on the other side.
    """
    down, across = squares_on(grid, size)
    whole = F.pad(tokens.unflatten(1, grid), (0, 0, 0, across * size - grid[1], 0, down * size - grid[0]))
    if shift:
        whole = whole.roll((-shift, -shift), (1, 2))
    return whole.unflatten(2, (across, size)).unflatten(1, (down, size)).transpose(2, 3)


def join_squares(squares: Tensor, grid: Grid, shift: int = 0) -> Tensor:
    """The inverse of `cut_squares`: (B, T, T', size, size, C) -> (B, N, C)."""
    whole = squares.transpose(2, 3).flatten(3, 4).flatten(1, 2)
    if shift:
        whole = whole.roll((shift, shift), (1, 2))
    return whole[:, : grid[0], : grid[1]].flatten(1, 2)
