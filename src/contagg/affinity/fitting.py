"""What is static in the place of what is dynamic: the affinity nearest to the mean of its A, by least squares."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contagg.affinity.base import Affinity, Grid
from contagg.affinity.depthwise_conv import DepthwiseConv
from contagg.affinity.mixture import Mixture
from contagg.affinity.static_heads import StaticHeads
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
        dilation: Of the convolution that is made of it; what is in its holes is lost.

    Examples:
        >>> fit = KernelFit(DepthwiseConv(4, kernel_size=3), kernel_size=3)
        >>> fit.add(torch.zeros(1, 35, 4), (5, 7))
        >>> torch.allclose(fit.kernel, fit.affinity.weight[:, 0])
        True
    """

    def __init__(self, affinity: Affinity, kernel_size: int, dilation: int = 1) -> None:
        if kernel_size % 2 == 0:
            raise UserError(f"a fitted kernel of {kernel_size}: it must be odd, so that a position has a centre")
        self.affinity, self.kernel_size, self.dilation = affinity, kernel_size, dilation
        self.sums = torch.zeros(affinity.heads, kernel_size**2, dtype=torch.float64)
        self.counts = torch.zeros(kernel_size**2, dtype=torch.float64)

    @property
    def kernel(self) -> Tensor:
        """(M, k, k), of all that was added; 0 where the grids were too small for an offset."""
        return (self.sums / self.counts.clamp_min(1)).unflatten(1, (self.kernel_size,) * 2).float()

    @torch.no_grad()
    def add(self, tokens: Tensor, grid: Grid) -> None:
        """Look at A for tokens (B, N, C), the last H*W of which lie on a grid."""
        prefix = tokens.shape[1] - grid[0] * grid[1]
        for places in torch.arange(grid[0] * grid[1], device=tokens.device).split(AT_ONCE):
            self.add_rows(self.rows(tokens, grid, prefix + places), places, grid, len(tokens))

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor) -> Tensor:
        """Rows of A summed over images, (M, R, N), float64 on the CPU."""
        rows = self.affinity.rows(tokens, grid, positions).double()
        return rows.expand(len(tokens), -1, -1, -1).sum(0).cpu()

    def add_rows(self, rows: Tensor, places: Tensor, grid: Grid, images: int) -> None:
        """Rows (M, R, N) of places (R,) of the grid, summed over so many images."""
        (height, width), reach = grid, self.kernel_size // 2
        padded = F.pad(rows[..., -height * width :].unflatten(2, grid), [reach] * 4)
        inside = F.pad(torch.ones(height, width, dtype=torch.float64), [reach] * 4)
        for row, place in enumerate(places.tolist()):
            top, left = divmod(place, width)
            window = (slice(top, top + self.kernel_size), slice(left, left + self.kernel_size))
            self.sums += padded[:, row, window[0], window[1]].flatten(1)
            self.counts += images * inside[window].flatten()

    def convolution(self, channels: int) -> DepthwiseConv:
        """The fitted kernel as an affinity without a bias, a kernel a head."""
        kernel = self.kernel[:, None, :: self.dilation, :: self.dilation]
        made = DepthwiseConv(channels, kernel.shape[-1], channels // self.affinity.heads, False, self.dilation)
        with torch.no_grad():
            made.weight.copy_(kernel)
        return made.to(next(self.affinity.parameters(), made.weight).device)


class HeadFit(KernelFit):
    """What least squares finds for each head in the form of `StaticHeads`, over images of one size.

    All entries of A count. Beyond the kernel's window each asks for f / HW alone, within it for its offset's number
    beside that, and those of prefix tokens for numbers of their own: so each is a mean again. Grids other than the
    first are passed over.
    """

    def __init__(self, affinity: Affinity, kernel_size: int) -> None:
        super().__init__(affinity, kernel_size)
        self.grid: Grid | None = None
        self.images = 0
        self.whole = torch.zeros(affinity.heads, dtype=torch.float64)  # all entries between places of the grid
        self.given = self.gathered = torch.zeros(affinity.heads, 0, dtype=torch.float64)

    @torch.no_grad()
    def add(self, tokens: Tensor, grid: Grid) -> None:
        prefix = tokens.shape[1] - grid[0] * grid[1]
        if self.grid is None:
            self.grid = grid[0], grid[1]
            self.given = self.whole.new_zeros(self.affinity.heads, prefix)
            self.gathered = self.whole.new_zeros(self.affinity.heads, prefix, tokens.shape[1])
        if self.grid == tuple(grid):
            self.images += len(tokens)
            self.gathered += self.rows(tokens, grid, torch.arange(prefix, device=tokens.device))
            super().add(tokens, grid)

    def add_rows(self, rows: Tensor, places: Tensor, grid: Grid, images: int) -> None:
        super().add_rows(rows, places, grid, images)
        first, on_grid = rows.split([rows.shape[2] - grid[0] * grid[1], grid[0] * grid[1]], 2)
        self.given += first.sum(1)
        self.whole += on_grid.sum((1, 2))

    @torch.no_grad()
    def heads(self, head_width: int) -> StaticHeads:
        """All heads as one static affinity."""
        assert self.grid is not None
        count = self.grid[0] * self.grid[1]
        made = StaticHeads(self.affinity.heads, head_width, self.kernel_size, self.grid, self.given.shape[1])
        beyond = self.images * count**2 - self.counts.sum()
        far = (self.whole - self.sums.sum(1)) / beyond if beyond else torch.zeros_like(self.whole)
        near = self.sums / self.counts.clamp_min(1) - far[:, None] * (self.counts > 0)
        made.weight.copy_(near.unflatten(1, (1, self.kernel_size, self.kernel_size)))
        made.far.copy_(count * far)
        if made.given is not None and made.gathered is not None:
            made.given.copy_(self.given / (self.images * count))
            made.gathered.copy_(self.gathered / self.images)
        return made.to(next(self.affinity.parameters(), made.weight).device)


def kernel_beside(mixture: Mixture) -> KernelFit | None:
    """To fit to a mixture's dynamic part what its static part, a convolution, can take in; None where it is none.

    It has that convolution's holes, so that the two together cost no more than it does.
    """
    static = mixture.static_part()[0]
    if not isinstance(static, DepthwiseConv):
        return None
    return KernelFit(mixture.dynamic_part(), 2 * static.dilation * (static.kernel_size // 2) + 1, static.dilation)


def static_form(mixture: Mixture, fitted: DepthwiseConv) -> DepthwiseConv | None:
    """One convolution for a mixture whose dynamic part is replaced by the one fitted to it; None where none is.

    It has a bias, as words of convolutions say, also where the mixture's has none.
    """
    parts: tuple[Affinity, Affinity] = (fitted, mixture.second) if mixture.dynamic_first else (mixture.first, fitted)
    gate = copy.deepcopy(mixture.gate)
    weight = next(fitted.parameters())
    with torch.no_grad():
        form = Mixture(*parts, gate).fold(weight.new_ones(1))
    if not isinstance(form, DepthwiseConv):
        return None
    if form.bias is None:
        form.bias = nn.Parameter(weight.new_zeros(form.heads))
    return form.requires_grad_(True)
