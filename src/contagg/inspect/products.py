"""Products of matrices in whatever words they are written, as weights times values."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from contagg.inspect.marks import mark_of, set_mark


@dataclass(frozen=True, kw_only=True)
class Weighing:
    """`weights` (..., n, m) times `values` (..., m, d), batches broadcast.

    `channel` is the axis of d in what the product gave; the other axes there are those of (..., n) in order. None where
    they were put into another order.
    """

    weights: Tensor
    values: Tensor
    channel: int | None


def matmul_operands(args: tuple[Any, ...]) -> tuple[Tensor, Tensor] | None:
    """The two sides of a product of at least two axes each; None for anything else."""
    if len(args) < 2 or not all(isinstance(each, Tensor) and each.ndim >= 2 for each in args[:2]):
        return None
    return args[0], args[1]


def einsum_operands(args: tuple[Any, ...]) -> tuple[Tensor, Tensor, bool] | None:
    """The two sides of an einsum that is a product of matrices, as `matmul` takes them, and whether it gives its order.

    None for anything else: more or fewer sides, traces, sums over one side, several axes that are summed over.
    """
    if not args or not isinstance(args[0], str):
        return None
    sides = list(args[1]) if len(args) == 2 and isinstance(args[1], list | tuple) else list(args[1:])
    text = args[0].replace(" ", "")
    if len(sides) != 2 or "->" not in text or "." in text:
        return None
    (left, right), out = text.split("->")[0].split(","), text.split("->")[1]
    summed = [letter for letter in left if letter in right and letter not in out]
    batch = [letter for letter in out if letter in left and letter in right]
    rows = [letter for letter in left if letter not in right]
    columns = [letter for letter in right if letter not in left]
    proper = len(summed) == len(rows) == len(columns) == 1 and set(rows + columns) <= set(out)
    if not proper or any(len(set(word)) != len(word) for word in (left, right, out)):
        return None
    first = _arranged(sides[0], left, batch + rows + summed)
    second = _arranged(sides[1], right, batch + summed + columns)
    return first, second, list(out) == batch + rows + columns


def _arranged(side: Tensor, axes: str, order: list[str]) -> Tensor:
    """A side with its axes in another order; what is known of it stays known."""
    arranged = side.permute([axes.index(letter) for letter in order])
    if (mark := mark_of(side)) is not None:
        set_mark(arranged, mark)
    return arranged
