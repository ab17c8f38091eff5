"""How timm makes a network of ours: what it is told of it, and the answer for an argument that does not exist."""

from collections.abc import Iterable
from inspect import signature
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg
from torch import nn

from contagg.errors import UserError, nearest
from contagg.nn.checkpoint_filter import accept_other_names, checkpoint_filter_fn

RENAMED = {"widths": "embed_dims", "patches": "patch_sizes"}
_FEATURES = ("features_only", "out_indices", "feature_cls")
_INNER = ("cfg", "model_cfg", "feature_cfg", "kwargs")
"""Parameters that timm and the builder here fill in themselves."""


def pretrained_cfg(
    first_conv: str, classifier: str, pool_size: tuple[int, int] | None, fixed_input_size: bool
) -> dict[str, Any]:
    """A timm `pretrained_cfg` without weights: DeiT's preprocessing at 224 pixels.

    Args:
        first_conv: name of the layer that takes the image.
        classifier: name of the layer that gives the classes.
        pool_size: (H, W) of the last map at 224 pixels, None for a sequence.
        fixed_input_size: whether the network serves no other size than that which it was made for.
    """
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "fixed_input_size": fixed_input_size,
        "pool_size": pool_size,
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": first_conv,
        "classifier": classifier,
        "license": "apache-2.0",
        "origin_url": "https://arxiv.org/abs/2106.01401",
    }


def build(network: type[nn.Module], name: str, pretrained: bool, levels: Any, **arguments: Any) -> nn.Module:
    """timm's `build_model_with_cfg` that takes checkpoints of other names and sizes.

    `levels` are the maps that `features_only` gives where no `out_indices` are asked for.
    """
    model = build_model_with_cfg(
        network,
        name,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": levels, "feature_cls": "getter"},
        **arguments,
    )
    if arguments.get("features_only"):
        model.register_load_state_dict_pre_hook(accept_other_names)
    return model


def check_names(name: str, arguments: Iterable[str], network: type[nn.Module], also: Iterable[str] = ()) -> None:
    """Raise UserError for an argument that neither `network` nor timm's builder takes, and that is not in `also`."""
    known = {*also, *_FEATURES, *signature(network).parameters, *signature(build_model_with_cfg).parameters}
    for argument in arguments:
        if argument in RENAMED:
            raise UserError(f"{name}: {argument!r} is called {RENAMED[argument]!r}")
        if argument not in known.difference(_INNER):
            raise UserError(f"{name}: no argument {argument!r}.{nearest(argument, known)}")
