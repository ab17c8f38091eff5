"""What an affinity is (Sec. 3.1): the matrix A that says how much each position gathers from each other.

Shapes: B images, N = P + H*W tokens (P prefix tokens such as a class token come first, then the grid row by row),
C channels, M heads of C/M neighbouring channels, R chosen positions.

A batch of images of unequal sizes is padded: each fills the grid from the top left corner. `mask` (B, H, W) is true
where the batch holds an image; such batches have no prefix tokens. Values and tokens come with zeros where it is false,
so that a kind which reads neighbours finds beyond an image what it finds beyond the edge of a grid.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contagg.affinity.bands import within_reach
from contagg.affinity.forms import Dense, Form
from contagg.errors import UserError

if TYPE_CHECKING:
    from contagg.affinity.mixture import Mixture

Grid = tuple[int, int]
"""Rows and columns of the tokens that lie on a grid."""

AT_ONCE = 256
"""Rows of A that are formed together where only some of their columns are kept."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where an affinity works: channels, the grid it is made for, and the tokens before the grid.

    `attn_drop` is the dropout rate of an affinity that depends on the tokens, `head_width` the channels of its heads
    where its word does not say: 32, in a plain transformer as many as its `num_heads` leave.
    """

    channels: int
    grid: Grid
    prefix: int = 0
    attn_drop: float = 0.0
    head_width: int = 32


LARGEST_MATRIX = 2**24
"""Numbers of all heads' matrices that are still kept where A has no smaller form."""


class Affinity(nn.Module, ABC):
    """A rule that gives A V without forming `A`, and rows of `A` where they are asked for.

    A kind defines `forward`, `rows`, `multiply_adds` and the attributes that differ from their defaults. The other
    methods have defaults that are right for any kind which serves any grid; `fuse` leaves such a kind as it is.
    `contagg.testing.check_affinity` tells whether all of it fits together.

    Attributes:
        heads: M.
        dynamic: Whether `A` depends on the tokens.
        local: The farthest that a position gathers from, in rows or columns of the grid; None where nothing bounds it.
        grid: The one grid that it was learnt for; None where it serves any.
        prefix: Tokens before the grid that it was made for.
        forms_matrix: Whether `forward` holds N x N numbers at once after all.
        bias: (C,), what `forward` adds to A V, or None: a parameter, or a property.
    """

    heads: int
    dynamic: bool
    local: int | None = None
    grid: Grid | None = None
    prefix: int = 0
    forms_matrix: bool = False

    def __init__(self) -> None:
        super().__init__()
        if not hasattr(type(self), "bias"):  # a mixture's is a property
            self.bias: Tensor | None = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "rows" in vars(cls) and "form" not in vars(cls):  # the form of other rows than these is not its own
            cls.form = Affinity.form  # type: ignore[method-assign]

    @abstractmethod
    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        """A V + bias, head by head.

        Args:
            values: (B, N, C).
            tokens: (B, N, C), the input of the aggregation.
            grid: (H, W).
            mask: bool (B, H, W), true where the batch holds an image; None where images fill it. An image is answered
                as alone, whatever its padding gets. A kind that cannot do so calls `each_alone` and `rows_alone`.

        Returns:
            (B, N, C).

        Raises:
            UserError: a grid that it cannot serve.
        """

    @abstractmethod
    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        """The rows of A at `positions`, token indices (R,) below N, with zeros where there is no image.

        Returns:
            (B, M, R, N), or (1, M, R, N) where A depends neither on the image nor on a mask.
        """

    def columns(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        """The columns of A at `positions`, what gathers from them: (B or 1, M, N, R)."""
        every = torch.arange(tokens.shape[1], device=tokens.device)
        parts = [self.rows(tokens, grid, some, mask)[..., positions] for some in every.split(AT_ONCE)]
        return torch.cat(parts, 2)

    def matrix(self, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        """The whole of A, (B or 1, M, N, N): the oracle for small grids."""
        return self.rows(tokens, grid, torch.arange(tokens.shape[1], device=tokens.device), mask)

    def form(self, tokens: Tensor, grid: Grid) -> Form | None:
        """A on one image (1, N, C), written down in numbers that grow with N, for whoever shows or keeps it.

        Without one of its own, a kind that is local gives what lies within its reach, and another one the matrix, or
        None where that is larger than `LARGEST_MATRIX`.
        """
        if self.local is not None and (2 * self.local + 1) ** 2 < tokens.shape[1]:
            return within_reach(lambda some: self.rows(tokens, grid, some)[0], self.heads, self.local, grid)
        if self.heads * tokens.shape[1] ** 2 > LARGEST_MATRIX:
            return None
        return Dense(matrix=self.matrix(tokens, grid)[0])

    @abstractmethod
    def multiply_adds(self, grid: Grid) -> int:
        """Of one image: A V, what forms A, and the projections of its own, as a counter of matrix products and
        convolutions finds them. What is added, scaled or normalised entry by entry counts nothing."""

    def terms(self) -> list[tuple["Affinity", Tensor]]:
        """The affinities that A is a sum of, and the weight of each, (1,) or one a head: itself alone, with 1."""
        return [(self, torch.ones(1))]

    def closable(self) -> "Mixture | None":
        """Itself where it mixes a dynamic affinity with a static one, so that the first can be closed; else None."""
        return None

    def open_heads(self) -> tuple[int, ...]:
        """Numbers, from 1, of the heads each of which can be closed, for a static A in its A's place: none here."""
        return ()

    def projections(self) -> list[nn.Linear] | None:
        """The layers through which alone it reads tokens; None where it reads them otherwise.

        An affine norm before them can then be folded into them.
        """
        return None if self.dynamic else []

    def fold(self, gate: Tensor) -> "Affinity | None":
        """An inference form of gate A with `gate`, (1,) or one a head, in its parameters; None where there is none."""
        return None

    def merge(self, other: "Affinity") -> "Affinity | None":
        """One affinity for the sum of this and `other`, of inference forms; None where there is none."""
        return None

    def resize(self, grid: Grid) -> None:
        """Serve another grid from now on, with what was learnt for one; nothing to do where any is served."""

    def serves(self, grid: Grid) -> bool:
        """Whether it can be called with tokens on this grid."""
        return self.grid is None or tuple(grid) == self.grid


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


def check_fills(tokens: Tensor, grid: Grid, what: str) -> None:
    """UserError unless the tokens (B, N, C) are those of the grid and no class tokens beside them, named by `what`."""
    if tokens.shape[1] != grid[0] * grid[1]:
        raise UserError(
            f"{what}: {tokens.shape[1]} tokens do not fill a grid of {grid[0]} x {grid[1]}; it serves no class tokens"
        )


def clear_padding(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """(B, N, C) with zeros where a mask (B, H, W) finds no image."""
    return tokens if mask is None else tokens.masked_fill(~mask.flatten(1)[:, :, None], 0)


def clear_columns(rows: Tensor, mask: Tensor | None) -> Tensor:
    """(B or 1, M, R, N) with zeros in the columns where a mask (B, H, W) finds no image: then (B, M, R, N)."""
    return rows if mask is None else rows.masked_fill(~mask.flatten(1)[:, None, None], 0)


def image_grids(mask: Tensor) -> list[Grid]:
    """The grid that each image of a padded batch has to itself."""
    sizes = torch.stack(image_sizes((mask.shape[1], mask.shape[2]), mask, mask), 1)
    return [(height, width) for height, width in sizes.tolist()]


def image_sizes(grid: Grid, mask: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns that each image fills, (B or 1,), of a padded batch or of a whole one."""
    if mask is not None:
        return mask[:, :, 0].sum(1), mask[:, 0].sum(1)
    height, width = (torch.full((1,), length, device=like.device) for length in grid)
    return height, width


def each_alone(affinity: Affinity, values: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """What a kind that knows no masks answers to a padded batch: image by image, each on its own grid, (B, N, C)."""
    answers = []
    for value, token, grid in zip(values, tokens, image_grids(mask), strict=True):
        whole = mask.shape[1], mask.shape[2]
        own = [as_tokens(as_map(part[None], whole)[..., : grid[0], : grid[1]]) for part in (value, token)]
        answer = as_map(affinity(*own, grid), grid)
        answers.append(as_tokens(F.pad(answer, (0, whole[1] - grid[1], 0, whole[0] - grid[0]))))
    return torch.cat(answers)


def rows_alone(affinity: Affinity, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor) -> Tensor:
    """The rows of a kind that knows no masks, (B, M, R, N): those of each image on its own grid, zeros elsewhere."""
    row, column = positions // grid[1], positions % grid[1]
    answers = []
    for token, own in zip(tokens, image_grids(mask), strict=True):
        within = (row < own[0]) & (column < own[1])
        places = torch.where(within, row * own[1] + column, 0)
        found = affinity.rows(as_tokens(as_map(token[None], grid)[..., : own[0], : own[1]]), own, places)
        found = F.pad(found.unflatten(3, own), (0, grid[1] - own[1], 0, grid[0] - own[0])).flatten(3)
        answers.append(found * within[:, None])
    return torch.cat(answers)


def by_matrix(affinity: Affinity, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
    """A V + bias by forming A, (B, N, C): what `forward` must equal."""
    gathered = join_heads(affinity.matrix(tokens, grid, mask) @ split_heads(values, affinity.heads))
    return gathered if affinity.bias is None else gathered + affinity.bias


def spread(weight: Tensor, count: int) -> Tensor:
    """A weight a layer (1,) or a head (M,) for `count` heads or channels; a layer's stays (1,) and broadcasts."""
    return weight if len(weight) == 1 else weight.repeat_interleave(count // len(weight))


def single(tensor: Tensor) -> Tensor:
    """In fp32 at least, for what half precision cannot hold."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def frozen(tensor: Tensor) -> nn.Parameter:
    """A parameter that is not learnt."""
    return nn.Parameter(tensor.detach(), requires_grad=False)


def tokens_on(grid: Grid, prefix: int = 0) -> int:
    """N."""
    return prefix + grid[0] * grid[1]
