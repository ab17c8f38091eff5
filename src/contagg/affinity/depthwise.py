"""Depthwise convolution of the same size, with a gradient that oneDNN's fast kernels compute.

oneDNN has a fast gradient of depthwise kernels for 3 x 3 alone: that of 5 x 5 takes 10 to 20 times as long
(docs/speed.md). A larger kernel's gradient is therefore put together from those of 3 x 3 windows that cover it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

_WORTHWHILE = 2**16
"""Numbers in a feature map from which several fast kernels take less time than one slow one."""


def depthwise(feature_map: Tensor, weight: Tensor, bias: Tensor | None, dilation: int = 1) -> Tensor:
    """(B, C, H, W) with kernels (C, 1, k, k'), odd, and zeros around it: (B, C, H, W), as `F.conv2d` has it."""
    square = weight.shape[2] == weight.shape[3] and dilation == 1
    if torch.jit.is_scripting() or torch.compiler.is_compiling() or not square:
        return _convolved(feature_map, weight, bias, dilation)
    learnt = torch.is_grad_enabled() and weight.requires_grad
    if learnt and weight.shape[-1] > 3 and feature_map.is_cpu and feature_map.numel() >= _WORTHWHILE:
        if torch.is_autocast_enabled("cpu"):
            precision = torch.get_autocast_dtype("cpu")
            feature_map, weight = feature_map.to(precision), weight.to(precision)
            bias = None if bias is None else bias.to(precision)
        return _Depthwise.apply(feature_map, weight, bias)
    return _convolved(feature_map, weight, bias)


def _convolved(feature_map: Tensor, weight: Tensor, bias: Tensor | None, dilation: int = 1) -> Tensor:
    padding = [dilation * (weight.shape[2] // 2), dilation * (weight.shape[3] // 2)]
    return F.conv2d(feature_map, weight, bias, padding=padding, dilation=dilation, groups=len(weight))


class _Depthwise(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(feature_map: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _convolved(feature_map, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        feature_map, weight, bias = inputs
        ctx.save_for_backward(feature_map, weight)
        ctx.has_bias = bias is not None

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        (gradient,) = gradients
        feature_map, weight = ctx.saved_tensors
        of_map = _convolved(gradient, weight.flip(2, 3), None) if ctx.needs_input_grad[0] else None
        of_bias = gradient.sum((0, 2, 3)) if ctx.has_bias else None
        return of_map, kernel_gradient(feature_map, gradient, weight.shape[-1]), of_bias


def kernel_gradient(feature_map: Tensor, gradient: Tensor, size: int) -> Tensor:
    """Of kernels (C, 1, size, size), given that of the output (B, C, H, W): window by window of 3 x 3."""
    channels, (height, width) = gradient.shape[1], gradient.shape[2:]
    padded = F.pad(feature_map, [size // 2] * 4)
    rows = []
    for top in range(0, size - 2, 2):
        windows = []
        for left in range(0, size - 2, 2):
            seen = padded[:, :, top : top + height + 2, left : left + width + 2]
            window = conv2d_weight(seen, (channels, 1, 3, 3), gradient, groups=channels)
            windows.append(window[..., min(left, 1) :])  # without the column that the window before has
        rows.append(torch.cat(windows, 3)[:, :, min(top, 1) :])
    return torch.cat(rows, 2)
