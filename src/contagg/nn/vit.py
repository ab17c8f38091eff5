"""DeiT with a position-aware static affinity added to its attention (PAM).

Paper: "Container: Context Aggregation Network", appendix B and listing 1, https://arxiv.org/abs/2106.01401.

timm's VisionTransformer with another attention layer: (softmax(Q K^T / sqrt(d)) + S) V, S a learnt N x N for each head
and layer, the class token included. S starts from a truncated normal with a deviation of 0.02, as the other weights do;
listing 1 has 1, before which softmax's rows, whose entries are about 1/N, are nothing (docs/paper-to-code.md).
"""

from typing import Any, ClassVar

from timm.layers import to_2tuple
from timm.models import VisionTransformer, generate_default_cfgs, register_model, register_notrace_module
from torch import Tensor, nn

from contagg.affinity.base import Grid
from contagg.affinity.registry import Site
from contagg.errors import UserError
from contagg.nn.aggregation import build_aggregation
from contagg.nn.build import build, check_names, pretrained_cfg
from contagg.nn.checkpoint_filter import accept_other_names, checkpoint_filter_fn

default_cfgs = generate_default_cfgs(
    {"deit_small_pam.untrained": pretrained_cfg("patch_embed.proj", "head", pool_size=None, fixed_input_size=True)}
)

_ONLY = {
    "qkv_bias": True,
    "qk_norm": False,
    "scale_attn_norm": False,
    "proj_bias": True,
    "patch_drop_rate": 0.0,
    "dynamic_img_size": False,
    "weight_init": "",
    "fix_init": False,
}
"""Arguments of timm's that its attention layer or a free grid would serve, and the one value of each that is served."""


@register_notrace_module  # torch.fx takes timm's mask argument for a tensor
class PositionAwareAttention(nn.Module):
    """(softmax(Q K^T / sqrt(d)) + S) V with a learnt N x N S a head; the class token has its row and column."""

    def __init__(
        self, channels: int, grid: Grid, prefix: int, num_heads: int, attn_drop: float = 0.0, proj_drop: float = 0.0
    ) -> None:
        super().__init__()
        self.grid = grid
        site, width = Site(channels=channels, grid=grid, prefix=prefix, attn_drop=attn_drop), channels // num_heads
        self.aggregation = build_aggregation(f"attention/{width} + token mlp/{width}", site, gate="sum")
        self.proj_drop = nn.Dropout(proj_drop)
        for layer in self.aggregation.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """(B, N, C) -> (B, N, C); timm's blocks pass a mask argument, which a static affinity has no use for."""
        if attn_mask is not None or is_causal:
            raise NotImplementedError("a static affinity takes no attention mask")
        return self.proj_drop(self.aggregation(tokens, self.grid))

    def resize(self, grid: Grid) -> None:
        """Serve another grid from now on."""
        self.aggregation.affinity.resize(grid)  # type: ignore[operator]
        self.grid = grid


class PositionAwareTransformer(VisionTransformer):
    """timm's vision transformer, its attention replaced; serves the image size it was made or resized for.

    Args:
        arguments: timm's, but that those in `_ONLY` have one value.

    Raises:
        UserError: one of them has another.

    >>> import torch
    >>> PositionAwareTransformer(3, img_size=64, embed_dim=96, depth=2)(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 1000])
    """

    checkpoint_filter_fn = staticmethod(checkpoint_filter_fn)
    __jit_unused_properties__: ClassVar[list[str]] = ["img_size"]

    def __init__(
        self, num_heads: int = 12, attn_drop_rate: float = 0.0, proj_drop_rate: float = 0.0, **arguments: Any
    ) -> None:
        for name, only in _ONLY.items():
            if arguments.get(name, only) != only:
                raise UserError(f"{name} {arguments[name]!r}: a transformer with PAM serves {only!r} only")
        for name in {"attn_layer", "block_fn"} & arguments.keys():
            raise UserError(f"{name}: a transformer with PAM has an attention layer of its own")
        super().__init__(num_heads=num_heads, proj_drop_rate=proj_drop_rate, **arguments)
        self.register_load_state_dict_pre_hook(accept_other_names)
        site = self.embed_dim, self.patch_embed.grid_size, self.num_prefix_tokens
        for block in self.blocks:
            block.attn = PositionAwareAttention(*site, num_heads, attn_drop_rate, proj_drop_rate)

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
    """DeiT-S with PAM: timm's `deit_small_patch16_224` is the same without.

    >>> sum(parameter.numel() for parameter in deit_small_pam().parameters())
    24844912
    """
    check_names("deit_small_pam", kwargs, VisionTransformer)
    arguments = {"patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6} | kwargs
    return build(PositionAwareTransformer, "deit_small_pam", pretrained, 3, **arguments)
