"""Attention that may say no: a difference of two, a gate on what is gathered, a sink beside the keys.

The rows of plain softmax are positive and sum to 1, so that a token must gather even where there is nothing for it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contagg.affinity.attention import SelfAttention, key_mask, masked_softmax
from contagg.affinity.base import Affinity, Grid, Site, join_heads, split_heads, tokens_on
from contagg.affinity.forms import Form, Sum
from contagg.affinity.scores import Scores
from contagg.errors import UserError


class DifferentialAttention(SelfAttention):
    """A_m = softmax(Q K^T / sqrt(d/2)) - lambda softmax(Q' K'^T / sqrt(d/2)): signed; what both see cancels.

    Ye et al., "Differential Transformer", Eq. 1 to 3 (https://arxiv.org/abs/2410.05258), the queries and keys of a head
    half as wide as its values, without the norm of each head that follows there: it is no linear map of the values.
    lambda = exp(a b) - exp(a' b') + 0.8, learnt and the same for all heads.
    """

    def __init__(self, site: Site, head_width: int | None = None) -> None:
        head_width = head_width or site.head_width
        super().__init__(site.channels, head_width, site.prefix, site.attn_drop)
        if head_width % 2:
            raise UserError(f"attention diff: head width {head_width} must be even, half of it for each of two")
        self.scale = (head_width // 2) ** -0.5
        # Two products of two vectors: lambda starts near 0.8 and moves slowly.
        self.weights = nn.Parameter(0.1 * torch.randn(2, 2, head_width // 2))

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        value, keys = split_heads(values, self.heads), key_mask(mask)
        # Fused kernels want queries as wide as values; otherwise torch forms A.
        first, second = (
            self.attend(F.pad(query, (0, query.shape[3])), F.pad(key, (0, key.shape[3])), value, keys)
            for query, key in self._pairs(tokens)
        )
        return join_heads(first - self._lambda().to(second.dtype) * second)

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        first, second = (
            masked_softmax(self.scale * query[:, :, positions] @ key.mT, key_mask(mask))
            for query, key in self._pairs(tokens)
        )
        return first - self._lambda() * second

    def form(self, tokens: Tensor, grid: Grid) -> Form | None:
        first, second = (self._scores(query, key) for query, key in self._pairs(tokens))
        return Sum(parts=((tokens.new_ones(1), first), (-self._lambda().view(1), second)))

    def _pairs(self, tokens: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Queries and keys of both, (B, M, N, d/2) each; those of a head lie side by side."""
        query, key = (split_heads(layer(tokens), 2 * self.heads) for layer in (self.query, self.key))
        return [(query[:, half::2], key[:, half::2]) for half in (0, 1)]

    def _lambda(self) -> Tensor:
        plus, minus = self.weights.prod(1).sum(1).exp()
        return plus - minus + 0.8

    def multiply_adds(self, grid: Grid) -> int:
        return super().multiply_adds(grid) + 2 * tokens_on(grid, self.prefix) ** 2 * self.query.in_features


class GatedAttention(Affinity):
    """A_c = diag(g_c) softmax(Q_m K_m^T / sqrt(d)) for each channel c of head m, with g = sigmoid(X W) of the tokens.

    Qiu et al., "Gated Attention for Large Language Models" (https://arxiv.org/abs/2505.06708): a gate an entry after
    the product with the values. It is a matrix a channel, each row of a head's matrix times a number of its own.
    """

    dynamic = True

    def __init__(self, site: Site, head_width: int | None = None) -> None:
        head_width = head_width or site.head_width
        super().__init__()
        self.attention = SelfAttention(site.channels, head_width, site.prefix, site.attn_drop)
        self.gate = nn.Linear(site.channels, site.channels)
        self.heads, self.prefix = site.channels, site.prefix

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        return self.gate(tokens).sigmoid() * self.attention(values, tokens, grid, mask)

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        rows = self.attention.rows(tokens, grid, positions, mask).repeat_interleave(
            self.heads // self.attention.heads, 1
        )
        return self.gate(tokens[:, positions]).sigmoid().mT[..., None] * rows

    def multiply_adds(self, grid: Grid) -> int:
        return self.attention.multiply_adds(grid) + tokens_on(grid, self.prefix) * self.heads**2

    def projections(self) -> list[nn.Linear]:
        return [*self.attention.projections(), self.gate]


class SinkAttention(SelfAttention):
    """A_m = softmax over the keys and a learnt one more, whose value is 0: rows sum to less than 1.

    torch's `add_bias_kv` with a value of 0. The key starts at 0: then it is softmax1, exp(x) / (1 + sum exp(x)), of
    Miller, "Attention Is Off By One" (https://www.evanmiller.org/attention-is-off-by-one.html).
    """

    def __init__(self, site: Site, head_width: int | None = None) -> None:
        head_width = head_width or site.head_width
        super().__init__(site.channels, head_width, site.prefix, site.attn_drop)
        self.sink = nn.Parameter(torch.zeros(self.heads, 1, head_width))

    def queries_keys(self, tokens: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        query, key = super().queries_keys(tokens, grid)
        return query, torch.cat([self.sink.to(key.dtype).expand(key.shape[0], -1, -1, -1), key], 2)

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        query, key = self.queries_keys(tokens, grid)
        value = F.pad(split_heads(values, self.heads), (0, 0, 1, 0))
        return join_heads(self.attend(query, key, value, _with_sink(mask)))

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        query, key = self.queries_keys(tokens, grid)
        return masked_softmax(self.scale * query[:, :, positions] @ key.mT, _with_sink(mask))[..., 1:]

    def form(self, tokens: Tensor, grid: Grid) -> Form | None:
        query, key = self.queries_keys(tokens, grid)
        place = torch.arange(tokens.shape[1])[None]
        return Scores(
            query=query,
            key=key[:, :, 1:],
            query_place=place,
            key_place=place,
            shape=(tokens.shape[1], tokens.shape[1]),
            scale=self.scale,
            sink=self.scale * query @ key[:, :, :1].mT,
        )

    def multiply_adds(self, grid: Grid) -> int:
        return super().multiply_adds(grid) + 2 * tokens_on(grid, self.prefix) * self.query.in_features


def _with_sink(mask: Tensor | None) -> Tensor | None:
    keys = key_mask(mask)
    return None if keys is None else F.pad(keys, (1, 0), value=True)
