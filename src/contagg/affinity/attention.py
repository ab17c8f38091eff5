"""The dynamic, dense affinity: self-attention (Eq. 4)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contagg.affinity.base import Affinity, Grid, join_heads, split_heads, tokens_on
from contagg.errors import UserError


class SelfAttention(Affinity):
    """A_m = softmax(Q_m K_m^T / sqrt(C/M)), heads of `head_width` = C/M channels; serves any grid and prefix tokens.

    In training mode `attn_drop` of the entries of A are dropped at random, and the others grow by 1 / (1 - attn_drop).
    """

    dynamic = True

    def __init__(self, channels: int, head_width: int = 32, prefix: int = 0, attn_drop: float = 0.0) -> None:
        super().__init__()
        if channels % head_width:
            raise UserError(f"attention: head width {head_width} does not divide {channels} channels")
        self.heads = channels // head_width
        self.prefix = prefix
        self.attn_drop = attn_drop
        self.scale = head_width**-0.5
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        query, key = split_heads(self.query(tokens), self.heads), split_heads(self.key(tokens), self.heads)
        keys = None if mask is None else mask.flatten(1)[:, None, None]
        value = split_heads(values, self.heads)
        drop = self.attn_drop if self.training else 0.0
        return join_heads(F.scaled_dot_product_attention(query, key, value, keys, drop, scale=self.scale))

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        query = split_heads(self.query(tokens[:, positions]), self.heads)
        key = split_heads(self.key(tokens), self.heads)
        logits = self.scale * query @ key.transpose(2, 3)
        if mask is not None:
            logits = logits.masked_fill(~mask.flatten(1)[:, None, None], -torch.inf)
        return logits.softmax(-1)

    def multiply_adds(self, grid: Grid) -> int:
        count, channels = tokens_on(grid, self.prefix), self.query.in_features
        return 2 * count * channels**2 + 2 * count**2 * channels

    def projections(self) -> list[nn.Linear]:
        return [self.query, self.key]
