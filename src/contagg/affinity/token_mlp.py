"""The static, dense affinity that is shared between images: an MLP over tokens (Eq. 6)."""

import copy
import math
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contagg.affinity.base import Affinity, Grid, clear_columns, frozen, spread, tokens_on
from contagg.affinity.forms import Factors, Form
from contagg.errors import UserError


class TokenMLP(Affinity):
    """A_m is a learnt N x N, or a product of N x rank and rank x N.

    It serves the one grid that it was made for; `resize` makes it serve another. `head_width` None means one head.
    `prefix` counts the tokens before the grid, such as a class token.
    """

    dynamic = False
    grid: Grid
    word = "token mlp"
    __constants__: ClassVar = ["word"]  # torch.jit.script sees no other attribute of a class

    def __init__(
        self, channels: int, grid: Grid, head_width: int | None = None, rank: int | None = None, prefix: int = 0
    ) -> None:
        super().__init__()
        head_width = head_width or channels
        if channels % head_width:
            raise UserError(f"token mlp/{head_width}: head width {head_width} does not divide {channels} channels")
        self.channels = channels
        self.heads = channels // head_width
        self.grid = grid
        self.prefix = prefix
        count = tokens_on(grid, prefix)
        inner = [rank] if rank else []
        self.low_rank = bool(rank)
        sizes = [count, *inner, count]
        self.factors = nn.ParameterList(torch.empty(self.heads, *pair) for pair in pairwise(sizes))
        # The entries of A start with a deviation of 0.02, whatever the rank.
        nn.init.trunc_normal_(self.factors[0], std=0.02)
        for factor in list(self.factors)[1:]:
            nn.init.trunc_normal_(factor, std=sizes[1] ** -0.5)

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        self._check(values, grid)
        # One matrix product a head over all images: the factor is never copied an image.
        result = torch.einsum("mij,bjmd->bimd", self.factors[-1], values.unflatten(2, (self.heads, -1)))
        if self.low_rank:
            result = torch.einsum("mij,bjmd->bimd", self.factors[0], result)
        return result.flatten(2)

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        self._check(tokens, grid)
        rows = self.factors[0][:, positions]
        for factor in list(self.factors)[1:]:
            rows = rows @ factor
        return clear_columns(rows[None], mask)

    def form(self, tokens: Tensor, grid: Grid) -> Form | None:
        if not self.low_rank:
            return super().form(tokens, grid)
        self._check(tokens, grid)
        return Factors(left=self.factors[0], right=self.factors[1].mT)

    def multiply_adds(self, grid: Grid) -> int:
        count = tokens_on(grid, self.prefix)
        return self.channels * (count**2 if len(self.factors) == 1 else 2 * count * self.factors[0].shape[2])

    def fold(self, gate: Tensor) -> "TokenMLP | None":
        """The gate in the first factor, if no head of ours has more than one."""
        if self.heads % len(gate):
            return None
        folded = copy.copy(self)
        first, *others = self.factors
        scaled = frozen(first * spread(gate, self.heads).view(-1, 1, 1))
        folded._modules = {**self._modules, "factors": nn.ParameterList([scaled, *others])}
        return folded

    @torch.no_grad()
    def resize(self, grid: Grid) -> None:
        """Serve another grid: targets and sources are interpolated bilinearly, prefix tokens are kept.

        Weights are divided by the growth in the number of sources, so that a sum over an area keeps its value.
        """
        growth = math.prod(grid) / math.prod(self.grid)
        factors = list(self.factors)
        factors[0] = self._resample(factors[0], grid, gain=1.0)
        factors[-1] = self._resample(factors[-1].mT, grid, gain=1 / growth).mT.contiguous()
        self.factors = nn.ParameterList(factors)
        self.grid = grid

    def _resample(self, factor: Tensor, grid: Grid, gain: float) -> Tensor:
        """(M, N, K) -> (M, N', K) along the grid's tokens."""
        prefix, spatial = factor.split([self.prefix, math.prod(self.grid)], dim=1)
        maps = spatial.transpose(1, 2).unflatten(2, self.grid)
        maps = gain * F.interpolate(maps, grid, mode="bilinear", antialias=True)
        return torch.cat([prefix, maps.flatten(2).transpose(1, 2)], dim=1)

    def _check(self, tokens: Tensor, grid: Grid) -> None:
        if not self.serves(grid) or tokens.shape[1] != tokens_on(grid, self.prefix):
            raise UserError(
                f"{self.word}: this static affinity was learnt on a grid of {self.grid[0]} x {self.grid[1]} and "
                f"{self.prefix} prefix tokens; it cannot serve {grid[0]} x {grid[1]} with {tokens.shape[1]} tokens; "
                "resize it first (`model.set_input_size(...)`) or create the model with that `img_size`"
            )
