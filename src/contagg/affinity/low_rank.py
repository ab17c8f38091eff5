"""Attention through fewer keys than tokens: pooled ones, agents, or the channels themselves. A has a low rank."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from contagg.affinity.attention import SelfAttention, key_mask, masked_softmax
from contagg.affinity.base import Grid, Site, check_fills, image_sizes, join_heads, split_heads, tokens_on
from contagg.affinity.forms import Factors, Form
from contagg.affinity.scores import Scores
from contagg.affinity.squares import cut_squares, is_exporting, squares_on
from contagg.errors import UserError


class PooledAttention(SelfAttention):
    """A_m = softmax(Q_m K'_m^T / sqrt(d)) R, with R the means of squares of `size` x `size` tokens and K' the keys of
    the means: rank N / size^2.

    As the linear form of Wang et al., "PVT v2" (https://arxiv.org/abs/2106.13797), whose squares grow with the image,
    without the layers between pooling and keys. The last squares of a row or column are as large as is left of them.
    """

    def __init__(self, site: Site, size: int, head_width: int | None = None) -> None:
        head_width = head_width or site.head_width
        super().__init__(site.channels, head_width, site.prefix, site.attn_drop)
        self.size = size

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        query, key, counts = self._pooled(tokens, grid, mask)
        pooled = split_heads(
            cut_squares(values, grid, self.size).sum((3, 4)).flatten(1, 2) / counts[..., None].clamp_min(1), self.heads
        )
        # Squares that hold no token are those of padding, and those more of a graph for any size.
        keys = (counts > 0)[:, None, None] if mask is not None or is_exporting() else None
        return join_heads(self.attend(query, key, pooled, keys))

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        query, key, counts = self._pooled(tokens, grid, mask)
        logits = self.scale * query[:, :, positions] @ key.mT
        share = masked_softmax(logits, (counts > 0)[:, None, None]) / counts[:, None, None].clamp_min(1)
        squares = share.unflatten(3, squares_on(grid, self.size))
        spread = squares.repeat_interleave(self.size, 3).repeat_interleave(self.size, 4)
        rows = spread[..., : grid[0], : grid[1]].flatten(3)
        keys = key_mask(mask)
        return rows if keys is None else rows * keys

    def form(self, tokens: Tensor, grid: Grid) -> Form | None:
        query, key, _ = self._pooled(tokens, grid, None)
        across = squares_on(grid, self.size)[1]
        row, column = (torch.arange(length) // self.size for length in grid)
        count = tokens.shape[1]
        return Scores(
            query=query,
            key=key,
            query_place=torch.arange(count)[None],
            key_of_place=(row[:, None] * across + column).flatten(),
            shape=(count, count),
            scale=self.scale,
        )

    def multiply_adds(self, grid: Grid) -> int:
        count, channels = tokens_on(grid), self.query.in_features
        squares = math.prod(squares_on(grid, self.size))
        return (count + squares) * channels**2 + 2 * count * squares * channels

    def _pooled(self, tokens: Tensor, grid: Grid, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, M, N, d), keys (B, M, N', d) of the N' squares, and how many tokens these hold (B or 1, N')."""
        check_fills(tokens, grid, f"pooled{self.size}")
        ones = tokens.new_ones(1, tokens.shape[1]) if mask is None else mask.flatten(1).to(tokens)
        counts = cut_squares(ones[..., None], grid, self.size).sum((3, 4)).flatten(1, 2)[..., 0]
        means = cut_squares(tokens, grid, self.size).sum((3, 4)).flatten(1, 2) / counts[..., None].clamp_min(1)
        return split_heads(self.query(tokens), self.heads), split_heads(self.key(means), self.heads), counts


class LinearAttention(SelfAttention):
    """A_m = phi(Q_m) phi(K_m)^T with rows that sum to 1, phi(x) = elu(x) + 1: rank d, and the cost of N d^2.

    Katharopoulos et al., "Transformers are RNNs", Eq. 4 and 7 (https://arxiv.org/abs/2006.16236). It has no entries to
    drop, so that `attn_drop` is nothing to it.
    """

    def __init__(self, site: Site, head_width: int | None = None) -> None:
        head_width = head_width or site.head_width
        super().__init__(site.channels, head_width, site.prefix)

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        query, key = self._positive(tokens, grid, mask)
        gathered = query @ (key.mT @ split_heads(values, self.heads))
        return join_heads(gathered / (query * key.sum(2, keepdim=True)).sum(3, keepdim=True))

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        query, key = self._positive(tokens, grid, mask)
        entries = query[:, :, positions] @ key.mT
        return entries / entries.sum(3, keepdim=True)

    def form(self, tokens: Tensor, grid: Grid) -> Form | None:
        query, key = self._positive(tokens, grid, None)
        return Factors(left=(query / (query @ key.sum(2)[..., None]))[0], right=key[0])

    def multiply_adds(self, grid: Grid) -> int:
        count, channels = tokens_on(grid, self.prefix), self.query.in_features
        return 2 * count * channels * (channels + channels // self.heads)

    def _positive(self, tokens: Tensor, grid: Grid, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        query, key = (F.elu(each) + 1 for each in self.queries_keys(tokens, grid))
        return query, key if mask is None else key * mask.flatten(1)[:, None, :, None]


class AgentAttention(SelfAttention):
    """A_m = softmax(Q_m P_m^T / sqrt(d)) softmax(P_m K_m^T / sqrt(d)): agents P gather, and all of them.

    Han et al., "Agent Attention", Eq. 5 (https://arxiv.org/abs/2312.08874), without the biases for one grid and the
    convolution beside it. The agents are means of the queries over a square number of parts of the grid, as adaptive
    average pooling has them.
    """

    def __init__(self, site: Site, agents: int, head_width: int | None = None) -> None:
        head_width = head_width or site.head_width
        super().__init__(site.channels, head_width, site.prefix, site.attn_drop)
        self.side = math.isqrt(agents)
        if self.side**2 != agents:
            raise UserError(f"agent{agents}: the number of agents must be a square, as 49 of 7 x 7 parts of the grid")

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        query, key, agents = self._agents(tokens, grid, mask)
        gathered = self.attend(agents, key, split_heads(values, self.heads), key_mask(mask))
        return join_heads(self.attend(query, agents, gathered))

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        query, key, agents = self._agents(tokens, grid, mask)
        of_agents = masked_softmax(self.scale * agents @ key.mT, key_mask(mask))
        return (self.scale * query[:, :, positions] @ agents.mT).softmax(-1) @ of_agents

    def form(self, tokens: Tensor, grid: Grid) -> Form | None:
        query, key, agents = self._agents(tokens, grid, None)
        gathered = (self.scale * agents @ key.mT).softmax(-1)
        return Factors(left=(self.scale * query @ agents.mT).softmax(-1)[0], right=gathered[0].mT)

    def multiply_adds(self, grid: Grid) -> int:
        count, channels, agents = tokens_on(grid), self.query.in_features, self.side**2
        pooling = self.side * count + agents * grid[1]
        return 2 * count * channels**2 + 4 * count * agents * channels + pooling * channels

    def _agents(self, tokens: Tensor, grid: Grid, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys (B, M, N, d), agents (B, M, n, d)."""
        check_fills(tokens, grid, f"agent{self.side**2}")
        query, key = self.query(tokens), split_heads(self.key(tokens), self.heads)
        means = [
            self._means(length, sizes, query)
            for length, sizes in zip(grid, image_sizes(grid, mask, query), strict=True)
        ]
        rows = (means[0] @ query.unflatten(1, grid).flatten(2)).unflatten(2, (grid[1], -1))
        agents = (means[1][:, None] @ rows).flatten(1, 2)
        return split_heads(query, self.heads), key, split_heads(agents, self.heads)

    def _means(self, length: int, sizes: Tensor, like: Tensor) -> Tensor:
        """What each part of an axis holds of it, (B or 1, side, length), for images of `sizes` (B or 1,)."""
        part = torch.arange(self.side, device=like.device)[:, None]
        begin = part * sizes[:, None, None] // self.side
        end = ((part + 1) * sizes[:, None, None] + self.side - 1) // self.side
        index = torch.arange(length, device=like.device)
        return ((index >= begin) & (index < end)).to(like) / (end - begin).to(like)
