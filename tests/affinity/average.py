"""A kind as a user of the package writes it: the mean of a window, which has no parameters."""

import torch
import torch.nn.functional as F
from torch import Tensor

import contagg
from contagg.affinity import Affinity, Grid, Site
from contagg.affinity.base import as_map, as_tokens, check_fills, clear_columns


class Average(Affinity):
    """A[i, j] = 1 / n for the n tokens in the window around i that hold an image."""

    dynamic = False
    heads = 1

    def __init__(self, site: Site, size: int = 3) -> None:
        super().__init__()
        self.size = size
        self.local = size // 2

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        check_fills(values, grid, "average")
        ones = values.new_ones(1, 1, *grid) if mask is None else mask[:, None].to(values)
        gathered, counted = (F.avg_pool2d(each, self.size, 1, self.local) for each in (as_map(values, grid), ones))
        return as_tokens(gathered / counted.clamp_min(0.5 / self.size**2))

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        targets = torch.cartesian_prod(*(torch.arange(length, device=tokens.device) for length in grid))
        near = (targets - targets[positions][:, None]).abs().amax(-1) <= self.local
        near = clear_columns(near.to(tokens)[None, None], mask)
        return near / near.sum(-1, keepdim=True).clamp_min(1)

    def multiply_adds(self, grid: Grid) -> int:
        return 0


contagg.register_affinity("average[{size}]", Average, ["average", "average5"])
