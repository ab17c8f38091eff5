"""Attention some of whose heads are closed: their A is the same for every image, and they have no queries and keys."""

import re
from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contagg.affinity.attention import SelfAttention
from contagg.affinity.bands import Band
from contagg.affinity.base import (
    Affinity,
    Grid,
    Site,
    as_map,
    as_tokens,
    check_fills,
    clear_columns,
    image_sizes,
    tokens_on,
)
from contagg.affinity.depthwise import depthwise
from contagg.affinity.depthwise_conv import kernel_rows
from contagg.affinity.forms import Factors, Form, Sum
from contagg.affinity.scores import Scores
from contagg.errors import UserError

_WORD = re.compile(r"(.+) static(\d+) in heads ([\d ]+)")


def partly_static_word(word: str, kernel_size: int, heads: Collection[int]) -> str:
    """The word of an affinity of whose heads, counted from 1, these become static.

    >>> partly_static_word("attention/64", 7, [3, 1]), partly_static_word("attention static5 in heads 2", 5, [1])
    ('attention/64 static7 in heads 1 3', 'attention static5 in heads 1 2')
    """
    if not heads:
        return word
    if found := _WORD.fullmatch(word):
        word, heads = found[1], {*heads, *map(int, found[3].split())}
    return f"{word} static{kernel_size} in heads {' '.join(map(str, sorted(heads)))}"


class StaticHeads(Affinity):
    """A_m[i, j] = K_m[j - i] + f_m / HW on the grid: a kernel, with zeros around the grid, and all alike.

    Of prefix tokens a position of the grid gathers the constants c_m, and they themselves gather by rows r_m over all
    tokens, which makes it serve one grid and so many prefix tokens; without them it serves any grid.
    """

    dynamic = False

    def __init__(self, heads: int, head_width: int, kernel_size: int, grid: Grid, prefix: int = 0) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise UserError(f"static{kernel_size}: the kernel size must be odd, so that a position has a centre")
        self.heads, self.head_width, self.kernel_size, self.prefix = heads, head_width, kernel_size, prefix
        self.grid = grid if prefix else None
        count = tokens_on(grid, prefix)
        self.weight = nn.Parameter(torch.empty(heads, 1, kernel_size, kernel_size))
        self.far = nn.Parameter(torch.zeros(heads))
        # As torch's convolutions start, and as attention does that knows nothing yet: all alike.
        nn.init.uniform_(self.weight, -1 / kernel_size, 1 / kernel_size)
        self.given = nn.Parameter(torch.full((heads, prefix), 1 / count)) if prefix else None
        self.gathered = nn.Parameter(torch.full((heads, prefix, count), 1 / count)) if prefix else None

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        self._check(values, grid)
        width = self.head_width
        on_grid = values[:, self.prefix :]
        near = as_tokens(depthwise(as_map(on_grid, grid), self.weight.repeat_interleave(width, 0), None))
        height, across = image_sizes(grid, mask, values)
        mean = on_grid.sum(1, keepdim=True) / (height * across)[:, None, None]
        shared = self.far.repeat_interleave(width) * mean
        if self.given is None or self.gathered is None:
            return near + shared
        first = values[:, : self.prefix]
        shared = shared + (self.given.mT.repeat_interleave(width, 1) * first).sum(1, keepdim=True)
        rows = torch.einsum("mpn,bnmd->bpmd", self.gathered, values.unflatten(2, (self.heads, width)))
        return torch.cat([rows.flatten(2), near + shared], 1)

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        self._check(tokens, grid)
        on_grid = positions - self.prefix
        near = kernel_rows(self.weight, grid, on_grid.clamp_min(0))[None]
        height, across = image_sizes(grid, mask, tokens)
        rows = clear_columns(near + self.far[:, None, None] / (height * across)[:, None, None, None], mask)
        if self.given is None or self.gathered is None:
            return rows
        rows = torch.cat([self.given[None, :, None].expand(*rows.shape[:3], -1), rows], 3)
        return torch.where((on_grid < 0)[:, None], self.gathered[:, positions.clamp_max(self.prefix - 1)], rows)

    def form(self, tokens: Tensor, grid: Grid) -> Form | None:
        self._check(tokens, grid)
        one, band = tokens.new_ones(1), Band(kernel=self.weight[:, 0], grid=grid, prefix=self.prefix)
        # What is not near, row by row: of prefix tokens their own, of the grid the one that its positions share.
        shared = (self.far / (grid[0] * grid[1]))[:, None, None].expand(-1, 1, grid[0] * grid[1])
        which = torch.arange(tokens.shape[1], device=tokens.device).clamp_max(self.prefix)
        if self.given is not None and self.gathered is not None:
            shared = torch.cat([self.gathered, torch.cat([self.given[:, None], shared], 2)], 1)
        left = F.one_hot(which, self.prefix + 1).to(shared).expand(self.heads, -1, -1)
        return Sum(parts=((one, band), (one, Factors(left=left, right=shared.mT))))

    def multiply_adds(self, grid: Grid) -> int:
        on_grid = grid[0] * grid[1] * self.kernel_size**2
        return self.heads * self.head_width * (on_grid + self.prefix * tokens_on(grid, self.prefix))

    @torch.no_grad()
    def resize(self, grid: Grid) -> None:
        """Rows of prefix tokens are interpolated bilinearly and keep their sums."""
        if self.grid is None or self.gathered is None or grid == self.grid:
            return
        first, maps = self.gathered[..., : self.prefix], self.gathered[..., self.prefix :].unflatten(2, self.grid)
        gain = self.grid[0] * self.grid[1] / (grid[0] * grid[1])
        larger = gain * F.interpolate(maps, grid, mode="bilinear", antialias=True).flatten(2)
        larger += (maps.sum((2, 3)) - larger.sum(2))[..., None] / larger.shape[2]
        self.gathered = nn.Parameter(torch.cat([first, larger], 2), self.gathered.requires_grad)
        self.grid = grid

    def _check(self, tokens: Tensor, grid: Grid) -> None:
        if not self.prefix:
            check_fills(tokens, grid, f"static{self.kernel_size}")
        elif not self.serves(grid) or tokens.shape[1] != tokens_on(grid, self.prefix):
            raise UserError(
                f"static{self.kernel_size}: its {self.prefix} prefix tokens have rows for one grid; it cannot "
                f"serve {grid[0]} x {grid[1]} with {tokens.shape[1]} tokens; resize it first "
                "(`model.set_input_size(...)`) or create the model with that `img_size`"
            )


class PartlyStaticAttention(Affinity):
    """A_m = softmax(Q_m K_m^T / sqrt(d)) in open heads, in closed ones a kernel beside a part all alike.

    A closed head has no queries and keys. `StaticHeads` says what it has, `contagg place --from` finds it.

    Args:
        heads: The closed ones, counted from 1.
    """

    open_index: Tensor
    closed_index: Tensor
    order: Tensor

    def __init__(self, site: Site, kernel_size: int, heads: Collection[int], head_width: int | None = None) -> None:
        super().__init__()
        width = self.head_width = head_width or site.head_width
        count = self.heads = site.channels // width
        what = f"attention/{width} static{kernel_size} in heads {' '.join(map(str, heads))}"
        if site.channels % width:
            raise UserError(f"{what}: head width {width} does not divide {site.channels} channels")
        if not heads or min(heads) < 1 or max(heads) > count:
            raise UserError(f"{what}: of {site.channels} channels there are heads 1 to {count}")
        closed = sorted({head - 1 for head in heads})
        opened = [head for head in range(count) if head not in closed]
        self.attention = (
            SelfAttention(site.channels, width, site.prefix, site.attn_drop, len(opened)) if opened else None
        )
        self.static = StaticHeads(len(closed), width, kernel_size, site.grid, site.prefix)
        self.closed_kernel = kernel_size
        self.dynamic, self.grid = bool(opened), self.static.grid
        self.prefix, self.attn_drop = site.prefix, site.attn_drop
        self.opened = tuple(opened)
        joined = [*opened, *closed]
        order = [joined.index(head) for head in range(count)]
        for name, index in (("open_index", opened), ("closed_index", closed), ("order", order)):
            self.register_buffer(name, torch.tensor(index, dtype=torch.long), persistent=False)

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        by_head = values.unflatten(2, (self.heads, self.head_width))
        found = self.static(by_head.index_select(2, self.closed_index).flatten(2), tokens, grid, mask)
        if self.attention is None:
            return found
        opened = self.attention(by_head.index_select(2, self.open_index).flatten(2), tokens, grid, mask)
        found = torch.cat([opened, found], 2).unflatten(2, (self.heads, self.head_width))
        return found.index_select(2, self.order).flatten(2)

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        found = self.static.rows(tokens, grid, positions, mask)
        if self.attention is None:
            return found
        opened = self.attention.rows(tokens, grid, positions, mask)
        return torch.cat([opened, found.expand(len(opened), -1, -1, -1)], 1).index_select(1, self.order)

    def form(self, tokens: Tensor, grid: Grid) -> Form | None:
        """A sum of both in all heads, those of the other weighed with 0: there is no form for heads of two kinds."""
        written: Any = self.static.form(tokens, grid)
        if self.attention is None:
            return written
        (one, band), (_, others) = written.parts
        query, key = (self._widened(each, 1, self.open_index) for each in self.attention.queries_keys(tokens, grid))
        place = torch.arange(tokens.shape[1])[None]
        scores = Scores(
            query=query,
            key=key,
            query_place=place,
            key_place=place,
            shape=(tokens.shape[1], tokens.shape[1]),
            scale=self.attention.scale,
        )
        kernel, left, right = (
            self._widened(each, 0, self.closed_index) for each in (band.kernel, others.left, others.right)
        )
        band = Band(kernel=kernel, grid=grid, prefix=self.prefix)
        opened = self._widened(tokens.new_ones(len(self.opened)), 0, self.open_index)
        return Sum(parts=((opened, scores), (one, band), (one, Factors(left=left, right=right))))

    def _widened(self, tensor: Tensor, dim: int, index: Tensor) -> Tensor:
        """With zeros for the heads that are not in `index`."""
        shape = list(tensor.shape)
        shape[dim] = self.heads
        return tensor.new_zeros(shape).index_copy(dim, index, tensor)

    def multiply_adds(self, grid: Grid) -> int:
        opened = 0 if self.attention is None else self.attention.multiply_adds(grid)
        return opened + self.static.multiply_adds(grid)

    def open_heads(self) -> tuple[int, ...]:
        return tuple(head + 1 for head in self.opened)

    def projections(self) -> list[nn.Linear]:
        return [] if self.attention is None else self.attention.projections()

    def resize(self, grid: Grid) -> None:
        self.static.resize(grid)
        self.grid = self.static.grid


@torch.no_grad()
def with_static_heads(source: Any, heads: Collection[int], fitted: StaticHeads, grid: Grid) -> PartlyStaticAttention:
    """An affinity some of whose open heads are closed, which take their A from those of `fitted`.

    Args:
        source: An affinity whose `open_heads` they are; it stays as it is. Heads closed before are `fitted` anew.
        fitted: Of all heads.
    """
    query, key = source.projections()
    opened, width = source.open_heads(), query.in_features // source.heads
    closed = {*range(1, source.heads + 1)}.difference(opened).union(heads)
    site = Site(channels=query.in_features, grid=grid, prefix=source.prefix, attn_drop=source.attn_drop)
    made = PartlyStaticAttention(site, fitted.kernel_size, closed, width).to(query.weight)
    if made.attention is not None:
        kept = [index for index, head in enumerate(opened) if head not in closed]
        for ours, theirs in ((made.attention.query, query), (made.attention.key, key)):
            ours.weight.copy_(theirs.weight.unflatten(0, (-1, width))[kept].flatten(0, 1))
            ours.bias.copy_(theirs.bias.unflatten(0, (-1, width))[kept].flatten())
    for name, parameter in made.static.named_parameters():
        parameter.copy_(fitted.get_parameter(name)[made.closed_index.to(fitted.weight.device)])
    return made.train(source.training)
