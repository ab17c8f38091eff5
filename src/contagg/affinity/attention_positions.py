"""Attention that knows where tokens lie: relative positions, rotations, and a decay with distance.

Positions are counted in tokens, so that one affinity serves every grid, and an image in a padded batch as alone.
"""

import torch
import torch.nn.functional as F
from timm.layers.pos_embed_sincos import apply_rot_embed, build_rotary_pos_embed
from torch import Tensor, nn

from contagg.affinity.attention import SelfAttention, key_mask, masked_softmax
from contagg.affinity.base import Grid, Site, check_fills, join_heads, split_heads
from contagg.affinity.forms import Form
from contagg.errors import UserError


def places(grid: Grid, device: torch.device) -> Tensor:
    """Row and column of each token of a grid, (H*W, 2)."""
    axes = [torch.arange(length, device=device) for length in grid]
    return torch.stack(torch.meshgrid(axes, indexing="ij"), -1).flatten(0, 1)


def offset_bias(table: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """Entries of a table (M, 2h-1, 2w-1) at the offsets of places (R, 2) from places (N, 2): (M, R, N).

    Offsets beyond the table take its edge.
    """
    height, width = table.shape[1] // 2, table.shape[2] // 2
    offset = queries[:, None] - keys
    row, column = offset[..., 0].clamp(-height, height), offset[..., 1].clamp(-width, width)
    return table[:, row + height, column + width]


def _grid_bias(table: Tensor, grid: Grid) -> Tensor:
    """`offset_bias` between all tokens of a grid, (M, N, N), by lines: twice as fast."""
    axes = zip(grid, table.shape[1:], strict=True)
    row, column = (
        (index[:, None] - index).clamp(-(size // 2), size // 2) + size // 2
        for index, size in ((torch.arange(length, device=table.device), size) for length, size in axes)
    )
    return table[:, row][:, :, :, column].transpose(2, 3).flatten(3, 4).flatten(1, 2)


class RelativeAttention(SelfAttention):
    """A_m = softmax(Q_m K_m^T / sqrt(d) + B_m[dy, dx]), B a learnt number a head and offset; 0 for class tokens.

    Liu et al., "Swin Transformer", Eq. 4 (https://arxiv.org/abs/2103.14030). The table holds the offsets of the grid
    that it was made or resized for, and larger ones take its edge. The bias is an N x N a head, shared by the images.
    """

    forms_matrix = True

    def __init__(self, site: Site, head_width: int | None = None) -> None:
        head_width = head_width or site.head_width
        super().__init__(site.channels, head_width, site.prefix, site.attn_drop)
        self.table = nn.Parameter(torch.empty(self.heads, 2 * site.grid[0] - 1, 2 * site.grid[1] - 1))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        query, key = self.queries_keys(tokens, grid)
        prefix = tokens.shape[1] - grid[0] * grid[1]
        added = F.pad(_grid_bias(self.table, grid), (prefix, 0, prefix, 0))[None].to(query.dtype)
        if mask is not None:
            added = added.masked_fill(~mask.flatten(1)[:, None, None], -torch.inf)
        return join_heads(self.attend(query, key, split_heads(values, self.heads), added))

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        query, key = self.queries_keys(tokens, grid)
        every, on_grid = places(grid, tokens.device), positions - (tokens.shape[1] - grid[0] * grid[1])
        added = offset_bias(self.table, every[on_grid.clamp_min(0)], every) * (on_grid >= 0)[:, None]
        logits = self.scale * query[:, :, positions] @ key.mT
        return masked_softmax(logits + F.pad(added, (logits.shape[3] - len(every), 0)), key_mask(mask))

    def form(self, tokens: Tensor, grid: Grid) -> Form | None:
        prefix = tokens.shape[1] - grid[0] * grid[1]
        added = F.pad(_grid_bias(self.table, grid), (prefix, 0, prefix, 0))
        return self._scores(*self.queries_keys(tokens, grid), (added[None],))

    @torch.no_grad()
    def resize(self, grid: Grid) -> None:
        """A table for another grid, interpolated bicubically, as timm does it."""
        size = [2 * length - 1 for length in grid]
        if list(self.table.shape[1:]) != size:
            table = F.interpolate(self.table[None], size, mode="bicubic", align_corners=False)[0]
            self.table = nn.Parameter(table, self.table.requires_grad)


class RotaryAttention(SelfAttention):
    """A_m = softmax(R(Q_m) R(K_m)^T / sqrt(d)): pairs of channels turn by angles that grow with row and column.

    Heo et al., "Rotary Position Embedding for Vision Transformer" (https://arxiv.org/abs/2403.13298), axial: half of
    the channels turn with the row, half with the column, by frequencies of `temperature`; a logit then knows its offset
    alone. timm's `RotaryEmbeddingCat(in_pixels=False)`. Class tokens are not turned.
    """

    def __init__(self, site: Site, head_width: int | None = None, temperature: float = 100.0) -> None:
        head_width = head_width or site.head_width
        super().__init__(site.channels, head_width, site.prefix, site.attn_drop)
        if head_width % 4:
            raise UserError(f"attention rope: head width {head_width} must be a multiple of 4, two pairs of channels")
        self.temperature = temperature

    def queries_keys(self, tokens: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        query, key = super().queries_keys(tokens, grid)
        sine, cosine = build_rotary_pos_embed(
            [grid[0], grid[1]],
            dim=query.shape[3],
            temperature=self.temperature,
            in_pixels=False,
            device=tokens.device,
            dtype=torch.promote_types(query.dtype, torch.float32),
        )
        prefix = tokens.shape[1] - grid[0] * grid[1]
        sine, cosine = F.pad(sine, (0, 0, prefix, 0)), F.pad(cosine, (0, 0, prefix, 0), value=1.0)
        return apply_rot_embed(query, sine, cosine), apply_rot_embed(key, sine, cosine)


class DecayingAttention(SelfAttention):
    """A_m = softmax(Q_m K_m^T / sqrt(d)) o gamma_m^(|dy| + |dx|), entry by entry: rows sum to less than 1.

    Fan et al., "RMT: Retentive Networks Meet Vision Transformers", Eq. 4 (https://arxiv.org/abs/2309.11523): the heads'
    gamma are 1 - 2^(-2 - 4 m / M), from wide awake near a token to far. It is no softmax, so that A is formed.
    """

    forms_matrix = True

    def __init__(self, site: Site, head_width: int | None = None) -> None:
        head_width = head_width or site.head_width
        super().__init__(site.channels, head_width, site.prefix, site.attn_drop)

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        every = torch.arange(tokens.shape[1], device=tokens.device)
        entries = F.dropout(self.rows(tokens, grid, every, mask), self.attn_drop, self.training)
        return join_heads(entries @ split_heads(values, self.heads).to(entries.dtype))

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        check_fills(tokens, grid, "decay")
        entries = super().rows(tokens, grid, positions, mask)
        every = places(grid, tokens.device)
        distance = (every[positions][:, None] - every).abs().sum(-1)
        head = torch.arange(self.heads, device=tokens.device, dtype=entries.dtype)
        gamma = 1 - 2 ** (-2 - 4 * head / self.heads)
        return entries * gamma[:, None, None] ** distance
