"""DeiT with a position-aware static affinity added to its attention (PAM, appendix B)."""

from typing import Any, ClassVar

from timm.layers import to_2tuple
from timm.models import VisionTransformer, generate_default_cfgs, register_model
from torch import Tensor, nn

from contagg.affinity.base import Grid
from contagg.affinity.registry import Site
from contagg.nn.aggregation import build_aggregation
from contagg.nn.build import build, check_names, pretrained_cfg
from contagg.nn.checkpoint_filter import accept_other_names, checkpoint_filter_fn

default_cfgs = generate_default_cfgs(
    {"deit_small_pam.untrained": pretrained_cfg("patch_embed.proj", "head", pool_size=None, fixed_input_size=True)}
)


class PositionAwareAttention(nn.Module):
    """(softmax(Q K^T / sqrt(d)) + S) V with a learnt N x N S a head; the class token has its row and column."""

    def __init__(self, channels: int, grid: Grid, prefix: int, head_width: int) -> None:
        super().__init__()
        self.grid = grid
        site = Site(channels=channels, grid=grid, prefix=prefix)
        self.aggregation = build_aggregation(f"attention/{head_width} + token mlp/{head_width}", site, gate="sum")

    def forward(self, tokens: Tensor, attn_mask: None = None, is_causal: bool = False) -> Tensor:
        """(B, N, C) -> (B, N, C); timm's blocks pass a mask argument, which a static affinity has no use for."""
        if attn_mask is not None or is_causal:
            raise NotImplementedError("a static affinity takes no attention mask")
        return self.aggregation(tokens, self.grid)

    def resize(self, grid: Grid) -> None:
        """Serve another grid from now on."""
        self.aggregation.affinity.resize(grid)  # type: ignore[operator]
        self.grid = grid


class PositionAwareTransformer(VisionTransformer):
    """timm's vision transformer, its attention replaced; serves the image size it was made or resized for."""

    checkpoint_filter_fn = staticmethod(checkpoint_filter_fn)
    __jit_unused_properties__: ClassVar[list[str]] = ["img_size"]

    def __init__(self, num_heads: int, **arguments: Any) -> None:
        super().__init__(num_heads=num_heads, **arguments)
        self.register_load_state_dict_pre_hook(accept_other_names)
        for block in self.blocks:
            block.attn = PositionAwareAttention(
                self.embed_dim, self.patch_embed.grid_size, self.num_prefix_tokens, self.embed_dim // num_heads
            )
            for layer in block.attn.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.trunc_normal_(layer.weight, std=0.02)
                    nn.init.zeros_(layer.bias)

    @property
    def img_size(self) -> Grid:
        """Height and width that it serves."""
        return self.patch_embed.img_size

    def set_input_size(
        self, img_size: int | tuple[int, int] | None = None, patch_size: tuple[int, int] | None = None
    ) -> None:
        """Resize positions and static affinities to another image size."""
        super().set_input_size(None if img_size is None else to_2tuple(img_size), patch_size)
        for module in self.modules():
            if isinstance(module, PositionAwareAttention):
                module.resize(self.patch_embed.grid_size)


@register_model
def deit_small_pam(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DeiT-S with PAM: timm's `deit_small_patch16_224` is the same without."""
    check_names("deit_small_pam", kwargs, VisionTransformer)
    arguments = {"patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6} | kwargs
    return build(PositionAwareTransformer, "deit_small_pam", pretrained, 3, **arguments)
