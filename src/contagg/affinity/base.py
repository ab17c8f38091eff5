"""What an affinity is (Sec. 3.1): the matrix A that says how much each position gathers from each other.

Shapes: B images, N = P + H*W tokens (P prefix tokens such as a class token come first, then the grid row by row),
C channels, M heads of C/M neighbouring channels, R chosen positions.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

Grid = tuple[int, int]
"""Rows and columns of the tokens that lie on a grid."""


class PaddedGrid(tuple[int, int]):
    """A Grid of a batch of which some images fill only a part, from the top left corner; no prefix tokens.

    `inside` (B, H, W) is true where a token is its image's. With it an image is answered as it is alone: nothing
    attends to padding, and convolutions find zeros there, as they do beyond the edge of a grid.
    """

    inside: Tensor

    def __new__(cls, inside: Tensor) -> "PaddedGrid":
        grid = super().__new__(cls, inside.shape[1:])
        grid.inside = inside
        return grid

    @property
    def keys(self) -> Tensor:
        """(B, 1, 1, N), true for tokens that may be attended to."""
        return self.inside.flatten(1)[:, None, None]

    @property
    def sizes(self) -> list[Grid]:
        """The grid that each image has to itself."""
        sizes = torch.stack([self.inside[:, :, 0].sum(1), self.inside[:, 0].sum(1)], 1)
        return [(height, width) for height, width in sizes.tolist()]


class Affinity(nn.Module, ABC):
    """A rule that gives `A`, and gives `A V` without forming `A`.

    `heads` is M. An affinity is dynamic when its `A` depends on the tokens.
    """

    heads: int
    dynamic: bool

    @abstractmethod
    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor) -> Tensor:
        """The rows of A at `positions`.

        Args:
            tokens: (B, N, C), the input of the aggregation.
            grid: (H, W).
            positions: (R,) token indices below N.

        Returns:
            (B, M, R, N), or (1, M, R, N) where A does not depend on the image.
        """

    @abstractmethod
    def aggregate(self, values: Tensor, tokens: Tensor, grid: Grid) -> Tensor:
        """A V + shift, head by head, for values (B, N, C): (B, N, C). Raises UserError for a grid it cannot serve."""

    def matrix(self, tokens: Tensor, grid: Grid) -> Tensor:
        """The whole of A, (B or 1, M, N, N): the oracle for small grids."""
        return self.rows(tokens, grid, torch.arange(tokens.shape[1], device=tokens.device))

    def shift(self) -> Tensor | None:
        """A constant (C,) that `aggregate` adds to A V (the bias of a convolution), or None."""
        return None


def clear_padding(tokens: Tensor, grid: Grid) -> Tensor:
    """(B, N, C) with zeros where a PaddedGrid holds no image; as it is on any other grid."""
    if isinstance(grid, PaddedGrid):
        return tokens.masked_fill(~grid.inside.flatten(1)[:, :, None], 0)
    return tokens


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """(B, N, C) -> (B, M, N, C/M)."""
    return tokens.unflatten(2, (heads, -1)).transpose(1, 2)


def join_heads(heads: Tensor) -> Tensor:
    """(B, M, N, C/M) -> (B, N, C)."""
    return heads.transpose(1, 2).flatten(2)


def as_map(tokens: Tensor, grid: Grid) -> Tensor:
    """(B, H*W, C) -> (B, C, H, W), a view in channels_last layout, the one that convolutions run fastest in."""
    return tokens.transpose(1, 2).unflatten(2, grid)


def as_tokens(feature_map: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H*W, C), a view of a channels_last map."""
    return feature_map.flatten(2).transpose(1, 2)
