"""Where a cell of a padded map lies in its image, as sines and cosines (Carion et al., 2020)."""

import math

import torch
from torch import Tensor

_TEMPERATURE = 10_000.0
_NOT_ZERO = 1e-6


def sine_positions(mask: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """(B, width, h, w): y's `width` / 2 channels, then x's, of places that run up to 2 pi where the image ends.

    Args:
        mask: bool (B, h, w), true where a cell holds something of its image.
    """
    channels = torch.arange(width // 2, device=mask.device) // 2
    wavelengths = _TEMPERATURE ** (4 * channels.to(dtype) / width)
    parts = []
    for axis in (1, 2):
        counted = mask.cumsum(axis, dtype=dtype)
        last = counted.narrow(axis, -1, 1)
        angles = (counted / (last + _NOT_ZERO) * 2 * math.pi)[..., None] / wavelengths
        parts.append(torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], -1).flatten(3))
    return torch.cat(parts, 3).permute(0, 3, 1, 2)
