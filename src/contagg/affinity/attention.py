"""The dynamic, dense affinity: self-attention (Eq. 4)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contagg.affinity.base import Affinity, Grid, PaddedGrid, join_heads, split_heads
from contagg.errors import UserError


class SelfAttention(Affinity):
    """A_m = softmax(Q_m K_m^T / sqrt(C/M)), heads of `head_width` = C/M channels; serves any grid and prefix tokens."""

    dynamic = True

    def __init__(self, channels: int, head_width: int = 32) -> None:
        super().__init__()
        if channels % head_width:
            raise UserError(f"attention: head width {head_width} does not divide {channels} channels")
        self.heads = channels // head_width
        self.scale = head_width**-0.5
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor) -> Tensor:
        query = split_heads(self.query(tokens[:, positions]), self.heads)
        key = split_heads(self.key(tokens), self.heads)
        logits = self.scale * query @ key.transpose(2, 3)
        if isinstance(grid, PaddedGrid):
            logits = logits.masked_fill(~grid.keys, -torch.inf)
        return logits.softmax(-1)

    def aggregate(self, values: Tensor, tokens: Tensor, grid: Grid) -> Tensor:
        query, key, value = (split_heads(t, self.heads) for t in (self.query(tokens), self.key(tokens), values))
        mask = grid.keys if isinstance(grid, PaddedGrid) else None
        return join_heads(F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=self.scale))
