"""timm's plain vision transformers as transformers of words: the same answers, with an A in each block."""

from collections.abc import Iterator
from inspect import signature
from itertools import zip_longest
from typing import Any

import timm
import torch
from timm.layers import Attention, DropPath
from timm.models import VisionTransformer
from torch import nn

from contagg.errors import UserError
from contagg.nn.vit import SIZES, MixerTransformer

_TOLD = ("global_pool", "num_prefix_tokens", "no_embed_class", "pool_include_prefix", "dynamic_img_size")
"""What a transformer does that its layers do not say."""


def as_mixer(network: VisionTransformer) -> MixerTransformer:
    """A copy of a plain vision transformer of timm's whose attention is the word "attention"; it answers alike.

    Raises:
        UserError: it is none, or has what a transformer of affinities does not serve.

    >>> import timm
    >>> theirs = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, reg_tokens=4).eval()
    >>> images = torch.randn(1, 3, 32, 32)
    >>> torch.allclose(as_mixer(theirs)(images), theirs(images), atol=1e-5)
    True
    """
    like = next(network.parameters())
    _, ours = mixer_like(network, like.device)
    ours.load_state_dict(network.state_dict())
    return ours.to(like).train(network.training)


def mixer_like(network: Any, device: torch.device | str = "meta") -> tuple[dict[str, Any], MixerTransformer]:
    """The options with which a network of ours is made that is like a plain vision transformer, and that network.

    Image size, channels, classes and stochastic depth are not among the options, since a recipe has them elsewhere.

    Raises:
        UserError: as `as_mixer`.
    """
    other = type(network).__name__ if type(network) is not VisionTransformer else ""
    if not other and not all(_is_plain(block.attn) for block in network.blocks):
        other = "its attention is another or has other norms and biases than vit_small_patch16_224's"
    if other:
        raise UserError(f"no plain vision transformer of timm's: {other}")
    options = _options(network)
    last = network.blocks[-1].drop_path1
    size = {
        "img_size": network.patch_embed.img_size,
        "in_chans": network.patch_embed.proj.in_channels,
        "num_classes": network.num_classes,
        "drop_path_rate": last.drop_prob if isinstance(last, DropPath) else 0.0,
    }
    with torch.device(device):
        ours = timm.create_model(mixer_name(network), **options, **size)
    assert isinstance(ours, MixerTransformer)
    for name in _TOLD:
        if getattr(network, name) != getattr(ours, name):
            raise UserError(f"no plain vision transformer of timm's: its {name} is {getattr(network, name)!r}")
    for theirs, plain in zip_longest(_layers(network), _layers(ours)):
        if theirs != plain:
            raise UserError(f"no plain vision transformer of timm's: it has {theirs}, a plain one {plain}")
    return options, ours


def mixer_name(network: Any) -> str:
    """The network of ours that is nearest to a transformer."""
    width = network.embed_dim, network.blocks[0].attn.num_heads
    return next((name for name, size in SIZES.items() if size == width), "vit_small_mixer")


def _is_plain(attention: nn.Module) -> bool:
    if type(attention) is not Attention:
        return False
    passed = [attention.q_norm, attention.k_norm, getattr(attention, "norm", nn.Identity())]
    biases = [attention.qkv.bias, attention.proj.bias]
    narrow = attention.qkv.in_features != attention.num_heads * attention.head_dim
    gate = getattr(attention, "gate", None)
    return all(isinstance(each, nn.Identity) for each in passed) and None not in biases and not narrow and gate is None


def _options(network: Any) -> dict[str, Any]:
    """What it was made with, as far as a `vit_*_mixer` is not made so by itself."""
    first, (down, across) = network.blocks[0], network.patch_embed.patch_size
    normed = [not isinstance(norm, nn.Identity) for norm in (network.norm, network.fc_norm)]
    hidden = getattr(first.mlp, "fc1", first.attn.proj).out_features
    found = {
        "patch_size": down if down == across else [down, across],
        "embed_dim": network.embed_dim,
        "depth": len(network.blocks),
        "num_heads": first.attn.num_heads,
        "mlp_ratio": hidden / network.embed_dim,
        "init_values": getattr(first.ls1, "init_values", None),
        "global_pool": network.global_pool,
        "class_token": network.has_class_token,
        "reg_tokens": network.num_reg_tokens,
        "no_embed_class": network.no_embed_class,
        "pos_embed": "none" if network.pos_embed is None else "learn",
        "pre_norm": not isinstance(network.norm_pre, nn.Identity),
        "final_norm": any(normed),
        "drop_rate": network.head_drop.p,
        "pos_drop_rate": network.pos_drop.p,
        "proj_drop_rate": first.attn.proj_drop.p,
        "attn_drop_rate": first.attn.attn_drop.p,
    }
    if any(normed) and normed[1] != (network.global_pool in ("avg", "avgmax", "max")):
        found["fc_norm"] = normed[1]
    if network.pool_include_prefix and network.global_pool != "prr":
        found["pool_include_prefix"] = True
    own = dict(zip(("embed_dim", "num_heads"), SIZES[mixer_name(network)], strict=True))
    usual = {name: parameter.default for name, parameter in signature(VisionTransformer).parameters.items()} | own
    return {name: value for name, value in found.items() if value != usual[name]}


def _layers(network: nn.Module) -> Iterator[str]:
    """All layers but those of attention, in words."""
    for name, module in network.named_modules():
        if name and ".attn" not in name:
            yield f"{name} {type(module).__name__}({module.extra_repr()})"
