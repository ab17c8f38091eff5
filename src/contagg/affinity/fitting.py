"""A static kernel in the place of a dynamic affinity: the convolution nearest to the mean of its A."""

import copy

import torch
from torch import Tensor

from contagg.affinity.base import Affinity, Grid
from contagg.affinity.depthwise_conv import DepthwiseConv
from contagg.affinity.mixture import Mixture
from contagg.errors import UserError

AT_ONCE = 64
"""Rows of A that are formed together."""


class KernelFit:
    """The kernel K (M, k, k) that least squares finds for A_m[i, j] = K_m[j - i], over images and positions i.

    Each pair (i, j) within the grid asks for one entry of K alone, so that the normal equations are diagonal: an entry
    is the mean of A over all pairs at its offset. What lies outside the window, or a border cuts off, counts nowhere.

    Args:
        affinity: Whose A is fitted.
        kernel_size: k, odd.

    Examples:
        >>> fit = KernelFit(DepthwiseConv(4, kernel_size=3), kernel_size=3)
        >>> fit.add(torch.zeros(1, 35, 4), (5, 7))
        >>> torch.allclose(fit.kernel, fit.affinity.weight[:, 0])
        True
    """

    def __init__(self, affinity: Affinity, kernel_size: int) -> None:
        if kernel_size % 2 == 0:
            raise UserError(f"a fitted kernel of {kernel_size}: it must be odd, so that a position has a centre")
        self.affinity, self.kernel_size = affinity, kernel_size
        self.sums = torch.zeros(affinity.heads, kernel_size**2, dtype=torch.float64)
        self.counts = torch.zeros(kernel_size**2, dtype=torch.float64)

    @property
    def kernel(self) -> Tensor:
        """(M, k, k), of all that was added; 0 where the grids were too small for an offset."""
        return (self.sums / self.counts.clamp_min(1)).unflatten(1, (self.kernel_size,) * 2).float()

    @torch.no_grad()
    def add(self, tokens: Tensor, grid: Grid) -> None:
        """Look at A for tokens (B, N, C), the last H*W of which lie on a grid."""
        height, width = grid
        prefix, reach = tokens.shape[1] - height * width, self.kernel_size // 2
        for places in torch.arange(height * width, device=tokens.device).split(AT_ONCE):
            rows = self.affinity.rows(tokens, grid, prefix + places)[..., prefix:].double()
            rows = rows.expand(len(tokens), -1, -1, -1).sum(0).unflatten(2, grid).cpu()  # (M, R, H, W)
            padded = torch.nn.functional.pad(rows, [reach] * 4)
            inside = torch.nn.functional.pad(torch.ones(height, width, dtype=torch.float64), [reach] * 4)
            for row, place in enumerate(places.tolist()):
                top, left = divmod(place, width)
                window = (slice(top, top + self.kernel_size), slice(left, left + self.kernel_size))
                self.sums += padded[:, row, window[0], window[1]].flatten(1)
                self.counts += len(tokens) * inside[window].flatten()

    def convolution(self, channels: int) -> DepthwiseConv:
        """The fitted kernel as an affinity without a bias, a kernel a head."""
        made = DepthwiseConv(channels, self.kernel_size, channels // self.affinity.heads, bias=False)
        with torch.no_grad():
            made.weight.copy_(self.kernel[:, None])
        return made.to(next(self.affinity.parameters(), made.weight).device)


def static_form(mixture: Mixture, fitted: Affinity) -> Affinity | None:
    """One static affinity for a mixture whose dynamic part is replaced by what was fitted to it; None where none is."""
    parts = (fitted, mixture.second) if mixture.dynamic_first else (mixture.first, fitted)
    gate = copy.deepcopy(mixture.gate)
    weight = next(fitted.parameters())
    with torch.no_grad():
        form = Mixture(*parts, gate).fold(weight.new_ones(1))
    return None if isinstance(form, Mixture) else form.requires_grad_(True)
