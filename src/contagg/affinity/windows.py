"""Attention to some of the tokens: those of a window, the nearest, or a row and then a column.

Windows are squares of queries with the squares of keys that they can reach, all of one size, so that torch's fused
attention takes them at once; what of a square does not count is masked.
"""

import math

import torch
from torch import Tensor, nn

from contagg.affinity.attention import SelfAttention, masked_softmax
from contagg.affinity.attention_positions import offset_bias, places
from contagg.affinity.base import Grid, Site, check_fills, image_sizes, tokens_on
from contagg.affinity.forms import Form, Product
from contagg.affinity.scores import Scores
from contagg.affinity.squares import cut_squares, join_squares, squares_on
from contagg.errors import UserError


class WindowAttention(SelfAttention):
    """A_m = softmax(Q_m K_m^T / sqrt(d) + B_m[dy, dx]) among the tokens of a window, 0 elsewhere.

    Liu et al., "Swin Transformer" (https://arxiv.org/abs/2103.14030): windows of `size` x `size` tokens side by side
    from the top left corner, or moved by `shift` towards it; what lies across the edge of the grid is left out. Unlike
    Swin's, a window that holds the whole grid is moved as well.
    """

    def __init__(self, site: Site, size: int, head_width: int | None = None, shift: int = 0) -> None:
        head_width = head_width or site.head_width
        super().__init__(site.channels, head_width, site.prefix, site.attn_drop)
        self.size, self.shift = size, shift
        self.apart = -3.0e4  # added to a logit: fp16 holds it, and its exponential is 0 in every precision
        self.local = size - 1
        self.table = nn.Parameter(torch.empty(self.heads, 2 * size - 1, 2 * size - 1))
        nn.init.trunc_normal_(self.table, std=0.02)

    @classmethod
    def shifted(cls, site: Site, size: int, head_width: int | None = None) -> "WindowAttention":
        """Moved by half a window, as every second block of Swin has it."""
        return cls(site, size, head_width, size // 2)

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        check_fills(tokens, grid, f"window{self.size}")
        query, key, value = [
            self._cut(each, grid).unflatten(3, (self.heads, -1)).transpose(2, 3).flatten(1, 2)
            for each in [self.query(tokens), self.key(tokens), values]
        ]
        # Heads stand beside windows, so that the bias of both is broadcast over images.
        answer = self.attend(query, key, value, self._added(grid, mask, query).flatten(1, 2))
        return self._joined(answer.unflatten(1, (-1, self.heads)).transpose(2, 3).flatten(3), grid)

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        check_fills(tokens, grid, f"window{self.size}")
        query, key = self.queries_keys(tokens, grid)
        every = places(grid, tokens.device)
        logits = self.scale * query[:, :, positions] @ key.mT + offset_bias(self.table, every[positions], every)
        window = (every - self.shift).div(self.size, rounding_mode="floor")
        counts = (window[positions][:, None] == window).all(-1)[None]
        if mask is not None:
            counts = counts & mask.flatten(1)[:, None]
        return masked_softmax(logits, counts[:, None])

    def form(self, tokens: Tensor, grid: Grid) -> Form | None:
        query, key = (
            self._cut(each(tokens), grid)[0].unflatten(2, (self.heads, -1)).transpose(1, 2)
            for each in (self.query, self.key)
        )
        count = tokens.shape[1]
        place = self._cut(torch.arange(1, count + 1)[None, :, None], grid)[0, ..., 0] - 1
        every = places((self.size, self.size), tokens.device)
        bias = offset_bias(self.table, every, every)[None]
        # Where windows are moved, those that the two ends of the grid share are two.
        part = (self._added(grid, None, bias)[0, :, :1] < self.apart / 2).to(bias)
        apart = torch.zeros_like(part).masked_fill(part.bool(), -torch.inf)
        return Scores(
            query=query,
            key=key,
            query_place=place,
            key_place=place,
            shape=(count, count),
            scale=self.scale,
            bias=(bias, apart) if self.shift else (bias,),
        )

    def multiply_adds(self, grid: Grid) -> int:
        count, channels = tokens_on(grid), self.query.in_features
        windows = math.prod(squares_on(grid, self.size))
        return 2 * count * channels**2 + 2 * windows * self.size**4 * channels

    def _added(self, grid: Grid, mask: Tensor | None, like: Tensor) -> Tensor:
        """What is added to the logits, (B or 1, T, M, S, S) for T windows of S tokens."""
        if mask is None:
            mask = torch.ones(1, grid[0], grid[1], dtype=torch.bool, device=like.device)
        row, column = [torch.arange(length, device=like.device) < self.shift for length in grid]
        # Where windows are cut from a grid that is rolled, its two ends share one: they are told apart by a number.
        part = (mask * (1 + row.long()[:, None] + 2 * column.long())).flatten(1)
        part = self._cut(part[..., None], grid)[..., 0]
        counts = (part[..., None] == part[..., None, :]) & (part > 0)[..., None, :]
        every = places((self.size, self.size), like.device)
        bias = offset_bias(self.table, every, every).to(like.dtype)
        return bias.masked_fill(~counts[:, :, None], self.apart)

    def _cut(self, tokens: Tensor, grid: Grid) -> Tensor:
        """(B, N, C) -> (B, T, S, C)."""
        return cut_squares(tokens, grid, self.size, self.shift).flatten(3, 4).flatten(1, 2)

    def _joined(self, windows: Tensor, grid: Grid) -> Tensor:
        """The inverse of `_cut`."""
        squares = windows.unflatten(2, (self.size, self.size)).unflatten(1, squares_on(grid, self.size))
        return join_squares(squares, grid, self.shift)


class NeighborhoodAttention(SelfAttention):
    """A_m = softmax(Q_m K_m^T / sqrt(d)) among the `size` x `size` nearest tokens, 0 elsewhere.

    Hassani et al., "Neighborhood Attention Transformer", Eq. 2 to 5 (https://arxiv.org/abs/2204.07143), without its
    bias: at an edge the neighbourhood stays whole and is moved inside; on a grid that is smaller it is all of it.

    Squares of `TILE` x `TILE` queries share the (size + TILE - 1)^2 keys that any of them reaches: plain torch, on any
    device; NATTEN has no kernels for CPUs.
    """

    TILE = 4

    def __init__(self, site: Site, size: int, head_width: int | None = None) -> None:
        head_width = head_width or site.head_width
        super().__init__(site.channels, head_width, site.prefix, site.attn_drop)
        if size % 2 == 0:
            raise UserError(f"neighborhood{size}: the size must be odd, so that a position has a centre")
        self.size = size
        self.local = size - 1

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        check_fills(tokens, grid, f"neighborhood{self.size}")
        rows, columns = (
            self._reached(length, sizes) for length, sizes in zip(grid, image_sizes(grid, mask, tokens), strict=True)
        )
        query = self._heads_first(cut_squares(self.query(tokens), grid, self.TILE).flatten(3, 4))
        image = torch.arange(tokens.shape[0], device=tokens.device)[:, None, None, None, None]
        key, value = (
            self._heads_first(
                each.unflatten(1, grid)[image, rows[0][:, :, None, :, None], columns[0][:, None, :, None, :]].flatten(
                    3, 4
                )
            )
            for each in (self.key(tokens), values)
        )
        counts = rows[1][:, :, None, :, None, :, None] & columns[1][:, None, :, None, :, None, :]
        counts = counts.flatten(5, 6).flatten(3, 4).flatten(1, 2)
        # Heads stand beside images, since only these may differ in what counts.
        if mask is not None:
            counts = counts.repeat_interleave(self.heads, 0)
        answer = self.attend(query, key, value, counts).unflatten(0, (tokens.shape[0], self.heads))
        tiles = answer.permute(0, 2, 3, 1, 4).flatten(3).unflatten(2, (self.TILE, self.TILE))
        return join_squares(tiles.unflatten(1, squares_on(grid, self.TILE)), grid)

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        check_fills(tokens, grid, f"neighborhood{self.size}")
        query, key = self.queries_keys(tokens, grid)
        every, sizes = places(grid, tokens.device), image_sizes(grid, mask, tokens)
        counts = torch.ones(1, len(positions), len(every), dtype=torch.bool, device=tokens.device)
        for axis in (0, 1):
            begin, end = self._window(every[positions, axis], sizes[axis])
            counts = counts & (every[:, axis] >= begin[..., None]) & (every[:, axis] < end[..., None])
        return masked_softmax(self.scale * query[:, :, positions] @ key.mT, counts[:, None])

    def multiply_adds(self, grid: Grid) -> int:
        count, channels = tokens_on(grid), self.query.in_features
        tiles = math.prod(squares_on(grid, self.TILE))
        return 2 * count * channels**2 + 2 * tiles * self.TILE**2 * (self.size + self.TILE - 1) ** 2 * channels

    def _window(self, index: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Along an axis of images of `sizes` (B or 1,), where the neighbourhoods of `index` (R,) begin and end."""
        last = (sizes - self.size).clamp_min(0)[:, None]
        begin = torch.minimum((index - self.size // 2).clamp_min(0), last)
        return begin, torch.minimum(begin + self.size, sizes[:, None])

    def _reached(self, length: int, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Along one axis, which keys the tiles reach (B or 1, T, K), and which of them count (B or 1, T, TILE, K)."""
        tiles, _ = squares_on((length, length), self.TILE)
        begin, end = (
            each.unflatten(1, (tiles, self.TILE))
            for each in self._window(torch.arange(tiles * self.TILE, device=sizes.device), sizes)
        )
        key = begin[:, :, :1] + torch.arange(self.size + self.TILE - 1, device=sizes.device)
        counts = (key[:, :, None] >= begin[..., None]) & (key[:, :, None] < end[..., None])
        return key.clamp_max(length - 1), counts

    def _heads_first(self, tiles: Tensor) -> Tensor:
        """(B, T, T', S, C) -> (B M, T T', S, C/M)."""
        return tiles.flatten(1, 2).unflatten(3, (self.heads, -1)).permute(0, 3, 1, 2, 4).flatten(0, 1)


class AxialAttention(SelfAttention):
    """A_m = A_columns A_rows, softmax(Q_m K_m^T / sqrt(d)) within a row of the grid, then within a column.

    Ho et al., "Axial Attention in Multidimensional Transformers" (https://arxiv.org/abs/1912.12180), with the same
    queries and keys for both.
    """

    def __init__(self, site: Site, head_width: int | None = None) -> None:
        head_width = head_width or site.head_width
        super().__init__(site.channels, head_width, site.prefix, site.attn_drop)

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        check_fills(tokens, grid, "axial")
        # (B, H, M, W, d): rows of the grid are a batch
        query, key, value = (
            each.unflatten(1, grid).unflatten(3, (self.heads, -1)).transpose(2, 3)
            for each in (self.query(tokens), self.key(tokens), values)
        )
        value = self._along(query, key, value, mask)
        query, key, value = (each.transpose(1, 3) for each in (query, key, value))
        answer = self._along(query, key, value, None if mask is None else mask.mT)
        return answer.permute(0, 3, 1, 2, 4).flatten(3).flatten(1, 2)

    def _along(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Attention within the lines (B, L, M, S, d) of tokens that a mask (B, L, S) holds."""
        counts = None
        if mask is not None:  # lines without an image attend to all of their zeros
            counts = (mask | ~mask.any(-1, keepdim=True)).flatten(0, 1)[:, None, None]
        answer = self.attend(query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1), counts)
        return answer.unflatten(0, (query.shape[0], query.shape[1]))

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        check_fills(tokens, grid, "axial")
        query, key = (each.unflatten(2, grid) for each in self.queries_keys(tokens, grid))
        at, column = query.flatten(2, 3)[:, :, positions], positions % grid[1]
        of_column = self.scale * torch.einsum("bmrd,bmhrd->bmrh", at, key[:, :, :, column])
        of_row = self.scale * torch.einsum("bmhrd,bmhwd->bmrhw", query[:, :, :, column], key)
        held = None if mask is None else mask[:, None, None]
        of_row = masked_softmax(of_row, held)
        of_column = masked_softmax(of_column, None if held is None else held.any(-1))
        return (of_column[..., None] * of_row).flatten(3)

    def form(self, tokens: Tensor, grid: Grid) -> Form | None:
        query, key = (each[0].unflatten(1, grid) for each in self.queries_keys(tokens, grid))
        place, count = torch.arange(tokens.shape[1]).view(grid), tokens.shape[1]
        of_rows, of_columns = (
            Scores(
                query=query.movedim(axis, 0),
                key=key.movedim(axis, 0),
                query_place=place.movedim(axis - 1, 0),
                key_place=place.movedim(axis - 1, 0),
                shape=(count, count),
                scale=self.scale,
            )
            for axis in (1, 2)
        )
        return Product(second=of_columns, first=of_rows)

    def multiply_adds(self, grid: Grid) -> int:
        count, channels = tokens_on(grid), self.query.in_features
        return 2 * count * channels**2 + 2 * count * (grid[0] + grid[1]) * channels
