"""Products of matrices in whatever words they are written, as weights times values."""

import string
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
    words = _spelled(args[0], sides) if len(sides) == 2 else None
    if words is None:
        return None
    left, right, out = words
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


def _spelled(text: str, sides: list[Tensor]) -> tuple[str, str, str] | None:
    """The axes of both sides and of what comes out, a letter each, dots and a missing arrow written out.

    None where dots stand for more axes on one side than on the other.
    """
    given, arrow, out = text.replace(" ", "").partition("->")
    words = given.split(",")
    if not arrow:
        single = sorted(letter for letter in set(given) - {",", "."} if given.count(letter) == 1)
        out = "..." * ("." in given) + "".join(single)
    hidden = [side.ndim - len(word.replace("...", "")) for word, side in zip(words, sides, strict=True)]
    if any(count > 0 and "..." not in word for count, word in zip(hidden, words, strict=True)):
        return None
    if len({count for count, word in zip(hidden, words, strict=True) if "..." in word}) > 1:
        return None
    dots = "".join(letter for letter in string.ascii_letters if letter not in given)[: max(hidden)]
    left, right, out = (word.replace("...", dots) for word in (*words, out))
    return left, right, out


def _arranged(side: Tensor, axes: str, order: list[str]) -> Tensor:
    """A side with its axes in another order; what is known of it stays known."""
    arranged = side.permute([axes.index(letter) for letter in order])
    if (mark := mark_of(side)) is not None:
        set_mark(arranged, mark)
    return arranged
