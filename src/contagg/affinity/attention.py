"""The dynamic, dense affinity: self-attention (Eq. 4)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contagg.affinity.base import Affinity, Grid, join_heads, split_heads, tokens_on
from contagg.affinity.forms import Form
from contagg.affinity.scores import Scores
from contagg.errors import UserError


class SelfAttention(Affinity):
    """A_m = softmax(Q_m K_m^T / sqrt(C/M)), heads of `head_width` = C/M channels; serves any grid and prefix tokens.

    With `heads` there are only so many, and values are that much narrower than tokens. In training mode `attn_drop` of
    the entries of A are dropped at random, and the others grow by 1 / (1 - attn_drop).
    """

    dynamic = True

    def __init__(
        self, channels: int, head_width: int = 32, prefix: int = 0, attn_drop: float = 0.0, heads: int | None = None
    ) -> None:
        super().__init__()
        if channels % head_width:
            raise UserError(f"attention: head width {head_width} does not divide {channels} channels")
        self.heads = heads or channels // head_width
        self.prefix = prefix
        self.attn_drop = attn_drop
        self.scale = head_width**-0.5
        self.query = nn.Linear(channels, self.heads * head_width)
        self.key = nn.Linear(channels, self.heads * head_width)

    def queries_keys(self, tokens: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """(B, M, N, C/M) each; what a kind knows of positions goes into them."""
        return split_heads(self.query(tokens), self.heads), split_heads(self.key(tokens), self.heads)

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        query, key = self.queries_keys(tokens, grid)
        return join_heads(self.attend(query, key, split_heads(values, self.heads), key_mask(mask)))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, added: Tensor | None = None) -> Tensor:
        """softmax(Q K^T * scale + added) V by torch's fused kernels; `added` may be bool, true where a key counts."""
        drop = self.attn_drop if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, added, drop, scale=self.scale)

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        query, key = self.queries_keys(tokens, grid)
        return masked_softmax(self.scale * query[:, :, positions] @ key.transpose(2, 3), key_mask(mask))

    def form(self, tokens: Tensor, grid: Grid) -> Form | None:
        return self._scores(*self.queries_keys(tokens, grid))

    def _scores(self, query: Tensor, key: Tensor, bias: tuple[Tensor, ...] = ()) -> Scores:
        """Of one image (1, M, N, d) that is one group."""
        place = torch.arange(query.shape[2])[None]
        shape = (query.shape[2], key.shape[2])
        return Scores(
            query=query, key=key, query_place=place, key_place=place, shape=shape, scale=self.scale, bias=bias
        )

    def multiply_adds(self, grid: Grid) -> int:
        count, width = tokens_on(grid, self.prefix), self.query.out_features
        return 2 * count * self.query.in_features * width + 2 * count**2 * width

    def open_heads(self) -> tuple[int, ...]:
        # A kind that derives from this one may have more in a head than queries and keys.
        return tuple(range(1, self.heads + 1)) if type(self) is SelfAttention else ()

    def projections(self) -> list[nn.Linear]:
        return [self.query, self.key]


def key_mask(mask: Tensor | None) -> Tensor | None:
    """A mask (B, H, W) over keys, (B, 1, 1, H*W)."""
    return None if mask is None else mask.flatten(1)[:, None, None]


def masked_softmax(logits: Tensor, counts: Tensor | None) -> Tensor:
    """Softmax over the last dimension where `counts` is true, 0 elsewhere and where nothing counts."""
    if counts is None:
        return logits.softmax(-1)
    return logits.masked_fill(~counts, torch.finfo(logits.dtype).min).softmax(-1).masked_fill(~counts, 0)
