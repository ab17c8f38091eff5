"""A kind under test, and what its checks draw and compare."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contagg.affinity.base import Affinity, Grid, tokens_on
from contagg.affinity.registry import Factory, Site, build_affinity

GRID: Grid = (5, 7)
OTHER_GRIDS: tuple[Grid, ...] = ((7, 3), (1, 11), (1, 1))


class Skipped(Exception):
    """A check that does not apply, and why."""


class Case:
    """Affinities of one kind in float64, away from where they start, and their inputs."""

    def __init__(self, factory: str | Factory, channels: int) -> None:
        self.factory, self.channels = factory, channels
        self.name = factory if isinstance(factory, str) else getattr(factory, "__qualname__", repr(factory))

    def make(self, site: Site) -> Affinity:
        """An affinity as the factory gives it."""
        return build_affinity(self.factory, site)

    def drawn(self, grid: Grid = GRID, prefix: int = 0) -> Affinity:
        """One in float64 and eval mode; every parameter is moved, so that none hides behind its start."""
        affinity = self.make(Site(channels=self.channels, grid=grid, prefix=prefix)).double().eval()
        moved(affinity)
        return affinity

    def inputs(self, grid: Grid = GRID, prefix: int = 0, batch: int = 2) -> tuple[Tensor, Tensor]:
        """Values and tokens (B, N, C)."""
        shape = batch, tokens_on(grid, prefix), self.channels
        return torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)


@torch.no_grad()
def moved(module: nn.Module) -> None:
    """Add noise to all parameters."""
    for parameter in module.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))


def by_matrix(affinity: Affinity, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
    """A V + bias head by head, with the whole of A: the slow oracle, without the package's helpers."""
    matrix = affinity.matrix(tokens, grid, mask).expand(len(values), -1, -1, -1)
    width = values.shape[2] // affinity.heads
    heads = [matrix[:, m] @ values[:, :, m * width : (m + 1) * width] for m in range(affinity.heads)]
    return torch.cat(heads, 2) + (0 if affinity.bias is None else affinity.bias)


def same(got: Tensor, expected: Tensor, what: str, tolerance: float = 1e-9) -> None:
    """AssertionError that says by how much two tensors differ, by the largest entry."""
    assert got.shape == expected.shape, f"{what}: the shape is {tuple(got.shape)}, not {tuple(expected.shape)}"
    difference = float((got - expected).detach().abs().max()) if got.numel() else 0.0
    scale = max(1.0, float(expected.detach().abs().max())) if got.numel() else 1.0
    assert difference <= tolerance * scale, f"{what}: they differ by {difference:.2g} where {scale:.2g} is largest"


def padded(tokens: Tensor, grid: Grid, whole: Grid, filling: float) -> Tensor:
    """(B, N, C) on a grid -> on a larger one, from the top left corner, with `filling` beyond."""
    feature_map = tokens.transpose(1, 2).unflatten(2, grid)
    larger = F.pad(feature_map, (0, whole[1] - grid[1], 0, whole[0] - grid[0]), value=filling)
    return larger.flatten(2).transpose(1, 2)


def cut(tokens: Tensor, whole: Grid, grid: Grid) -> Tensor:
    """The inverse of `padded`."""
    return tokens.unflatten(1, whole)[:, : grid[0], : grid[1]].flatten(1, 2)
