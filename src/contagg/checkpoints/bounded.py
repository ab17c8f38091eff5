"""Making a network that a file describes: whatever the file says ends in a network no larger than its weights, or in
one line."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from contagg.errors import UserError

SPARE = 2**26
"""Elements that a network may hold beyond four times its file's: masks and tables of positions are not saved."""

STEPS, SPARE_STEPS = 50, 20_000
"""Operations that making a network may take: for each tensor of the file's, and beyond. Networks of timm's take 2 to 8
for a tensor."""

_FACTORIES = {
    getattr(torch.ops.aten, name)
    for name in ("empty", "zeros", "ones", "full", "rand", "randn", "randint", "new_empty", "new_zeros")
}


@contextlib.contextmanager
def described_by(source: str, state: dict[str, Tensor]) -> Iterator[None]:
    """Around the making of a network from what a file says of itself.

    Raises:
        UserError: what is made is far larger than the weights `state` beside the description, or anything else fails.
    """
    try:
        elements = 4 * sum(map(torch.numel, state.values())) + SPARE
        with _Bounded(source, elements, STEPS * len(state) + SPARE_STEPS):
            yield
    except UserError as error:
        raise error if source in str(error) else UserError(f"{source}: {error}") from error
    except Exception as error:  # of what a file may say any part of timm or torch may complain, in its own way
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{source} describes no network that can be made: {' '.join(reason.split())}") from error


class _Bounded(TorchDispatchMode):
    """Counts operations and the elements of new tensors, and ends with UserError before there are too many."""

    def __init__(self, source: str, elements: int, steps: int) -> None:
        super().__init__()
        self.source, self.elements, self.steps = source, elements, steps

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in _FACTORIES:
            size = next((arg for arg in args if isinstance(arg, list | tuple)), ())
            self.elements -= math.prod(size)
        self.steps -= 1
        if self.elements < 0 or self.steps < 0:
            raise UserError(f"{self.source} describes a network far larger than the weights in it")
        return func(*args, **(kwargs or {}))
