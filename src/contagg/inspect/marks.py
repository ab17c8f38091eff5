"""What is learnt of a tensor while a model runs, kept on the tensor and handed on by what is done to it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Weights:
    """It came from a softmax; `query` is what its scores are products of, where that was seen."""

    query: Tensor | None = None


@dataclass(frozen=True)
class Pair:
    """It is a product of two tensors, (..., n, r) and (..., r, m): scores, or one half of a linear attention."""

    left: Tensor
    right: Tensor


@dataclass(frozen=True)
class Hidden:
    """It is tokens (..., d, N) times a matrix (r, N), then each number by itself through functions of slope `slope`."""

    weight: Tensor
    tokens: Tensor
    slope: Tensor | float = 1.0


Mark = Weights | Pair | Hidden


def mark_of(value: Any) -> Mark | None:
    """What is known of a tensor."""
    return getattr(value, "_contagg_mark", None) if isinstance(value, Tensor) else None


def set_mark(tensor: Tensor, mark: Mark) -> None:
    """Note it, in the place of what was known."""
    tensor._contagg_mark = mark  # type: ignore[attr-defined]


def branches_of(value: Any) -> frozenset[int]:
    """The layers that a tensor came from since something was added to it that went around them."""
    return getattr(value, "_contagg_branches", frozenset()) if isinstance(value, Tensor) else frozenset()


def set_branches(tensor: Tensor, layers: frozenset[int]) -> None:
    """Note them."""
    tensor._contagg_branches = layers  # type: ignore[attr-defined]


def carry(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
    """Hand on what is known of a call's arguments to what it gave."""
    marked = [each for each in _tensors((*args, *kwargs.values())) if mark_of(each) or branches_of(each)]
    if not marked:
        return
    layers = frozenset().union(*(branches_of(each) for each in marked))
    for output in _tensors(result if isinstance(result, tuple | list) else (result,)):
        if layers and output.is_floating_point():
            set_branches(output, layers)
        alike = next((each for each in marked if mark_of(each) and each.numel() == output.numel()), None)
        if alike is not None and output is not alike:
            mark = mark_of(alike)
            mark = _through(function, args, kwargs, alike, mark) if isinstance(mark, Hidden) else mark
            if mark is not None:
                set_mark(output, mark)


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from (each for each in value if isinstance(each, Tensor))


def _through(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], source: Tensor, mark: Hidden
) -> Hidden | None:
    """A mark behind a function of each number by itself; None behind any other."""
    if sum(1 for _ in _tensors((*args, *kwargs.values()))) != 1 or args[:1] != (source,):
        return None
    with torch.enable_grad():
        point = source.detach().requires_grad_()
        output = function(point.clone(), *args[1:], **kwargs)
        if not isinstance(output, Tensor) or output.shape != source.shape or not output.requires_grad:
            return None
        (slope,) = torch.autograd.grad(output.sum(), point)
    return replace(mark, slope=mark.slope * slope)
