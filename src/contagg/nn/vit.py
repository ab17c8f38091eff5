"""Plain vision transformers whose attention is any affinity: by a word, or a word a block.

ViT: Dosovitskiy et al., "An Image is Worth 16x16 Words", https://arxiv.org/abs/2010.11929.
DeiT with PAM: "Container: Context Aggregation Network", appendix B and listing 1, https://arxiv.org/abs/2106.01401.

timm's VisionTransformer with another attention layer, in the widths of timm's `vit_*_patch16_224`. PAM is
(softmax(Q K^T / sqrt(d)) + S) V, S a learnt N x N for each head and layer, the class token included. S starts from a
truncated normal with a deviation of 0.02, as the other weights do; listing 1 has 1, before which softmax's rows, whose
entries are about 1/N, are nothing (docs/paper-to-code.md).
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from timm.layers import to_2tuple
from timm.models import VisionTransformer, generate_default_cfgs, register_model, register_notrace_module
from torch import Tensor, nn

from contagg.affinity.base import Grid, Site, tokens_on
from contagg.affinity.mixture import GateWord
from contagg.errors import UserError
from contagg.nn.aggregation import affinities, build_aggregation
from contagg.nn.build import build, check_names, pretrained_cfg
from contagg.nn.checkpoint_filter import accept_other_names, checkpoint_filter_fn
from contagg.nn.stages import Word, a_block_each

SIZES = {"vit_tiny_mixer": (192, 3), "vit_small_mixer": (384, 6), "vit_base_mixer": (768, 12)}
"""Channels and heads by name; a word that names no head width takes channels / heads."""

VITS = (*SIZES, "deit_small_pam")

default_cfgs = generate_default_cfgs(
    {
        f"{name}.untrained": pretrained_cfg("patch_embed.proj", "head", pool_size=None, fixed_input_size=True)
        for name in VITS
    }
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
class MixerAttention(nn.Module):
    """A V by any affinity in the place of timm's attention layer; the grid is that of the image size."""

    def __init__(self, word: Word, site: Site, gate: GateWord, proj_drop: float = 0.0) -> None:
        super().__init__()
        self.grid, self.num_heads = site.grid, site.channels // site.head_width
        self.aggregation = build_aggregation(word, site, gate)
        self.proj_drop = nn.Dropout(proj_drop)
        for layer in self.aggregation.modules():
            # As DeiT's start; one that a kind starts at zero, such as its offsets, stays there.
            if isinstance(layer, nn.Linear) and (layer.weight.is_meta or layer.weight.any()):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """(B, N, C) -> (B, N, C); timm's blocks pass a mask argument, which not every affinity has a use for."""
        if attn_mask is not None or is_causal:
            raise NotImplementedError("an affinity takes no attention mask")
        return self.proj_drop(self.aggregation(tokens, self.grid))

    def resize(self, grid: Grid) -> None:
        """Serve another grid from now on."""
        for affinity in affinities(self):
            affinity.resize(grid)
        self.grid = grid


class MixerTransformer(VisionTransformer):
    """timm's vision transformer, its attention replaced; serves the image size it was made or resized for.

    Where a word serves no class token, the network has none, and its features are the mean of its tokens.

    Args:
        affinity: a word or a factory (`Site` -> `Affinity`) for all blocks, or a list of one a block.
        gate: mixes the two affinities of a word such as "attention + dwconv3".
        num_heads: the heads of a word that says no width of its own are embed_dim / num_heads wide.
        arguments: timm's, but that those in `_ONLY` have one value.

    Raises:
        UserError: a word is wrong, or serves no class token where one is asked for; one of timm's arguments has a value
            that is not served.

    >>> import torch
    >>> model = MixerTransformer("attention rope", img_size=64, embed_dim=96, depth=2, num_heads=3)
    >>> model(torch.zeros(1, 3, 64, 64)).shape, model.num_prefix_tokens
    (torch.Size([1, 1000]), 1)
    >>> MixerTransformer("window7", img_size=64, embed_dim=96, depth=2, num_heads=3).num_prefix_tokens
    0
    """

    checkpoint_filter_fn = staticmethod(checkpoint_filter_fn)
    __jit_unused_properties__: ClassVar[list[str]] = ["img_size"]

    def __init__(
        self,
        affinity: Word | Sequence[Word] = "attention",
        gate: GateWord = "free",
        num_classes: int = 1000,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        **arguments: Any,
    ) -> None:
        for name, only in _ONLY.items():
            if arguments.get(name, only) != only:
                raise UserError(f"{name} {arguments[name]!r}: a transformer of affinities serves {only!r} only")
        for name in {"attn_layer", "block_fn"} & arguments.keys():
            raise UserError(f"{name}: a transformer of affinities has an attention layer of its own")
        if embed_dim % num_heads:
            raise UserError(f"embed_dim {embed_dim} must be divisible by num_heads {num_heads}")
        words, width = a_block_each("the transformer", affinity, depth), embed_dim // num_heads
        pooling = _pooling(words, Site(channels=embed_dim, grid=(2, 3), head_width=width), gate, arguments)
        super().__init__(
            num_classes=num_classes,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            proj_drop_rate=proj_drop_rate,
            **{**arguments, **pooling},
        )
        self.register_load_state_dict_pre_hook(accept_other_names)
        self.words = words
        grid, prefix = self.patch_embed.grid_size, self.num_prefix_tokens
        site = Site(channels=embed_dim, grid=grid, prefix=prefix, attn_drop=attn_drop_rate, head_width=width)
        for block, word in zip(self.blocks, words, strict=True):
            block.attn = MixerAttention(word, site, gate, proj_drop_rate)

    @property
    def img_size(self) -> Grid:
        """Height and width that it serves."""
        return self.patch_embed.img_size

    def set_input_size(
        self, img_size: int | tuple[int, int] | None = None, patch_size: tuple[int, int] | None = None
    ) -> None:
        """Resize positions and what affinities learnt for one grid to another image size."""
        super().set_input_size(None if img_size is None else to_2tuple(img_size), patch_size)
        for module in self.modules():
            if isinstance(module, MixerAttention):
                module.resize(self.patch_embed.grid_size)


def _pooling(words: Sequence[Word], site: Site, gate: GateWord, given: dict[str, Any]) -> dict[str, Any]:
    """timm's arguments for a network without a class token, where one of the words serves none; else nothing.

    Raises:
        UserError: a word is wrong, or serves no class or register tokens and they are asked for.
    """
    refusing = next((word for word in dict.fromkeys(words) if not serves_class_token(word, site, gate)), None)
    if refusing is None:
        return {}
    asked = {name: given.get(name) for name in ("class_token", "reg_tokens")}
    asked["global_pool"] = given.get("global_pool") == "token"
    for name in asked:
        if asked[name]:
            raise UserError(
                f"{name} {given[name]!r}: the affinity {refusing!r} serves no class or register tokens; leave it out: "
                "the features are then the mean of all tokens"
            )
    return {"class_token": False, "global_pool": given.get("global_pool", "avg")}


def serves_class_token(word: Word, site: Site, gate: GateWord = "free") -> bool:
    """Whether an affinity takes a token before the grid: seen from what it answers, without storage.

    Raises:
        UserError: the word is wrong.

    >>> serves_class_token("attention", Site(channels=32, grid=(2, 3)))
    True
    """
    with torch.device("meta"), torch.no_grad():
        build_aggregation(word, site, gate)  # raises for what has nothing to do with class tokens
        with_token = Site(channels=site.channels, grid=site.grid, prefix=1, head_width=site.head_width)
        try:
            aggregation = build_aggregation(word, with_token, gate)
            aggregation(torch.zeros(1, tokens_on(site.grid, 1), site.channels), site.grid)
        except UserError:
            return False
    return True


def _register(name: str, embed_dim: int, num_heads: int) -> None:
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        """`affinity` and `gate` may be given beside timm's own arguments."""
        check_names(name, kwargs, VisionTransformer, ("affinity", "gate"))
        arguments = {"patch_size": 16, "embed_dim": embed_dim, "depth": 12, "num_heads": num_heads} | kwargs
        return build(MixerTransformer, name, pretrained, 3, **arguments)

    entrypoint.__name__ = name
    register_model(entrypoint)


for _name, _size in SIZES.items():
    _register(_name, *_size)


@register_model
def deit_small_pam(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DeiT-S with PAM: timm's `deit_small_patch16_224` is the same without.

    >>> sum(parameter.numel() for parameter in deit_small_pam().parameters())
    24844912
    """
    check_names("deit_small_pam", kwargs, VisionTransformer)
    arguments = {"patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6} | kwargs
    a_head = arguments["embed_dim"] // max(1, arguments["num_heads"]) or 1
    word = f"attention/{a_head} + token mlp/{a_head}"
    return build(MixerTransformer, "deit_small_pam", pretrained, 3, affinity=word, gate="sum", **arguments)
