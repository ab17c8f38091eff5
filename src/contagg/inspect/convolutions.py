"""Convolutions and averages over windows as bands."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from contagg.affinity.bands import Band


def pair(value: Any) -> tuple[int, int]:
    """One number for both axes, or two."""
    first, second = (value, value) if isinstance(value, int) else (value[0], value[-1])
    return int(first), int(second)


def padding_of(options: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns of zeros before the first of a convolution's input."""
    given, size = options.get("padding", 0), options["weight"].shape[2:]
    if isinstance(given, str):
        dilation = pair(options.get("dilation", 1))
        rows, columns = (step * (length - 1) // 2 for step, length in zip(dilation, size, strict=True))
        return (rows, columns) if given == "same" else (0, 0)
    return pair(given)


def convolution_band(options: Mapping[str, Any], grid: tuple[int, int]) -> Band | None:
    """A depthwise convolution's; None where its dilation differs between axes or its padding is no multiple of it."""
    weight, dilation, padding = options["weight"], pair(options.get("dilation", 1)), padding_of(options)
    steps = [step for step, length in zip(dilation, weight.shape[2:], strict=True) if length > 1]
    step = steps[0] if steps else 1
    if any(each != step for each in steps) or any(each % step for each in padding):
        return None
    return Band(kernel=_centred(weight.detach()[:, 0], [each // step for each in padding]), grid=grid, dilation=step)


def average_band(options: Mapping[str, Any], grid: tuple[int, int], like: Tensor) -> Band:
    """An average over windows, which counts what lies beyond the edge or does not."""
    height, width = pair(options["kernel_size"])
    kernel = like.new_full((1, height, width), 1 / (options.get("divisor_override") or height * width))
    counts = options.get("count_include_pad", True) or options.get("divisor_override")
    padding = pair(options.get("padding", 0))
    return Band(kernel=_centred(kernel, list(padding)), grid=grid, padding="zeros" if counts else "mean")


def _centred(kernel: Tensor, before: list[int]) -> Tensor:
    """A kernel (M, k, k') whose first entry lies `before` places before the middle, with the middle at k // 2."""
    margins: list[int] = []
    for length, ahead in zip(kernel.shape[:0:-1], reversed(before), strict=True):
        reach = max(ahead, length - 1 - ahead)
        margins += [reach - ahead, reach - (length - 1 - ahead)]
    return F.pad(kernel, margins) if any(margins) else kernel


def is_depthwise(options: Mapping[str, Any]) -> bool:
    """Whether a convolution mixes places, of the same grid, and no channels."""
    values, weight = options["input"], options["weight"]
    groups = options.get("groups", 1)
    return (
        values.ndim == 4
        and max(weight.shape[2:]) > 1
        and weight.shape[1] == 1
        and groups == values.shape[1]
        and pair(options.get("stride", 1)) == (1, 1)
        and _keeps(options)
    )


def is_pooling(options: Mapping[str, Any]) -> bool:
    """Whether an average over windows keeps the grid."""
    size, padding = pair(options["kernel_size"]), pair(options.get("padding", 0))
    stride = options.get("stride")
    return (
        options["input"].ndim == 4
        and max(size) > 1
        and stride is not None
        and pair(stride) == (1, 1)
        and all(length == 2 * each + 1 for length, each in zip(size, padding, strict=True))
    )


def _keeps(options: Mapping[str, Any]) -> bool:
    if options.get("padding") == "same":
        return True
    spans = zip(pair(options.get("dilation", 1)), options["weight"].shape[2:], padding_of(options), strict=True)
    return all(2 * padding == step * (length - 1) for step, length, padding in spans)
