"""The block of Sec. 3.4: position encoding, x + aggregate(norm x), x + feed-forward(norm x).

LayerScale, a factor a channel on what each branch adds, and other places of the norms are options that the paper does
not have.
"""

from typing import Literal

from timm.layers import DropPath, LayerScale, Mlp, get_act_layer
from torch import Tensor, nn

from contagg.affinity.base import Grid, as_map, as_tokens, clear_padding, frozen
from contagg.nn.aggregation import Aggregation

NormPlacement = Literal["pre", "res_post", "single"]
"""Where a block normalizes: before each branch; after each branch, x + norm(f(x)); before the aggregation alone."""


class ConditionalPosition(nn.Conv2d):
    """Conditional position encoding, x + depthwise 3x3 convolution of x: the borders tell where a token is."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1, groups=channels)
        self.residual = True

    def forward(self, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        position = as_tokens(self._conv_forward(as_map(clear_padding(tokens, mask), grid), self.weight, self.bias))
        return tokens + position if self.residual else position

    def fold(self) -> None:
        """Become one convolution, for inference: x is what a 1 in the kernel's centre adds."""
        if self.residual:
            weight = self.weight.clone()
            weight[:, :, 1, 1] += 1
            self.weight, self.residual = frozen(weight), False


class Block(nn.Module):
    """One block over tokens (B, H*W, C); it never asks what its aggregation is.

    BatchNorm over maps stands before the branches (`norm1`, `norm2`) or after them (`post_norm1`, `post_norm2`).
    """

    def __init__(
        self,
        channels: int,
        aggregation: Aggregation,
        mlp_ratio: float,
        drop_path: float,
        conditional_position: bool,
        proj_drop: float = 0.0,
        layer_scale: float | None = None,
        activation: str = "gelu",
        norm_placement: NormPlacement = "pre",
    ) -> None:
        super().__init__()
        post = norm_placement == "res_post"
        self.position = ConditionalPosition(channels) if conditional_position else None
        # Plain BatchNorm2d over maps, so that what replaces those fits: SyncBatchNorm, frozen ones, Identity.
        self.norm1: nn.Module = nn.Identity() if post else nn.BatchNorm2d(channels)
        self.aggregation = aggregation
        self.proj_drop = nn.Dropout(proj_drop)
        self.post_norm1: nn.Module | None = nn.BatchNorm2d(channels) if post else None
        self.scale1 = _layer_scale(channels, layer_scale)
        self.drop_path1 = DropPath(drop_path)
        self.norm2: nn.Module = nn.BatchNorm2d(channels) if norm_placement == "pre" else nn.Identity()
        self.mlp = Mlp(channels, int(channels * mlp_ratio), act_layer=get_act_layer(activation), drop=proj_drop)
        self.post_norm2: nn.Module | None = nn.BatchNorm2d(channels) if post else None
        self.scale2 = _layer_scale(channels, layer_scale)
        self.drop_path2 = DropPath(drop_path)

    def forward(self, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        """(B, H*W, C) -> (B, H*W, C); `mask` as `Aggregation` takes it."""
        if self.position is not None:
            tokens = self.position(tokens, grid, mask)
        gathered = self.proj_drop(self.aggregation(as_tokens(self.norm1(as_map(tokens, grid))), grid, mask))
        if self.post_norm1 is not None:
            gathered = as_tokens(self.post_norm1(as_map(gathered, grid)))
        tokens = tokens + self.drop_path1(self.scale1(gathered))
        answer = self.mlp(as_tokens(self.norm2(as_map(tokens, grid))))
        if self.post_norm2 is not None:
            answer = as_tokens(self.post_norm2(as_map(answer, grid)))
        return tokens + self.drop_path2(self.scale2(answer))


def _layer_scale(channels: int, start: float | None) -> nn.Module:
    return nn.Identity() if start is None else LayerScale(channels, start)
