"""How timm makes a network of ours: what it is told of it, and one clear line for an argument that is wrong."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg
from torch import nn

from contagg.errors import UserError, nearest
from contagg.nn.checkpoint_filter import accept_other_names, checkpoint_filter_fn

RENAMED = {"widths": "embed_dims", "patches": "patch_sizes"}
"""Arguments that were called otherwise once, and what they are called."""

_OF_OTHERS = {"output_stride": "patch_sizes=(4, 2, 2, 1) gives maps at strides 4, 8, 16 and 16"}
_FEATURES = ("features_only", "out_indices", "feature_cls", "device", "dtype")
_INNER = ("cfg", "model_cfg", "feature_cfg", "kwargs", "arguments")
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
        "crop_pct": 0.875,  # 224 of 256 pixels, as DeiT and the authors evaluate; timm's own DeiT has 0.9
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

    Args:
        levels: the maps that `features_only` gives where no `out_indices` are asked for.
        arguments: the network's and timm's, `device` and `dtype` among them.

    Raises:
        UserError: what timm refuses, in one line.
    """
    check_values(name, arguments)
    device, dtype = arguments.pop("device", None), arguments.pop("dtype", None)
    try:
        with nullcontext() if device is None else torch.device(device):
            model = build_model_with_cfg(
                network,
                name,
                pretrained,
                pretrained_filter_fn=checkpoint_filter_fn,
                feature_cfg={"out_indices": levels, "feature_cls": "getter"},
                **arguments,
            )
    except AssertionError as error:  # so timm checks arguments
        raise UserError(f"{name}: {error}") from error
    except FileNotFoundError as error:  # timm tells the file in a log line alone
        overlay, config = (arguments.get(key) for key in ("pretrained_cfg_overlay", "pretrained_cfg"))
        told = next((each["file"] for each in (overlay, config) if isinstance(each, dict) and each.get("file")), "")
        raise UserError(f"{name}: the pretrained weights were not loaded: there is no file {told!r}") from error
    except RuntimeError as error:
        if not pretrained:
            raise
        raise UserError(f"{name}: the pretrained weights were not loaded: {' '.join(str(error).split())}") from error
    if arguments.get("features_only"):
        model.register_load_state_dict_pre_hook(accept_other_names)
    return model if dtype is None else model.to(dtype)


def check_names(name: str, arguments: Iterable[str], network: type[nn.Module], also: Iterable[str] = ()) -> None:
    """Raise UserError for an argument that neither `network` nor timm's builder takes, and that is not in `also`."""
    known = {*also, *_FEATURES, *signature(network).parameters, *signature(build_model_with_cfg).parameters}
    for argument in arguments:
        if argument in RENAMED:
            raise UserError(f"{name}: {argument!r} is called {RENAMED[argument]!r}")
        if argument in _OF_OTHERS and argument not in known:
            raise UserError(f"{name}: no argument {argument!r}; {_OF_OTHERS[argument]}")
        if argument not in known.difference(_INNER):
            raise UserError(f"{name}: no argument {argument!r}.{nearest(argument, known)}")


def _whole(least: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least


def _rate(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1


def _size(value: Any) -> bool:
    pair = value if isinstance(value, list | tuple) else (value, value)
    return len(pair) == 2 and all(map(_whole(1), pair))


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "img_size": (_size, "a whole number of pixels, or (height, width)"),
    "patch_size": (_size, "a whole number of pixels, or (height, width)"),
    "num_classes": (_whole(0), "a whole number, 0 for no classifier"),
    **{name: (_whole(1), "a whole number from 1 on") for name in ("in_chans", "embed_dim", "depth", "num_heads")},
    **{
        name: (_rate, "a number from 0 up to, but not, 1")
        for name in ("drop_rate", "drop_path_rate", "proj_drop_rate", "attn_drop_rate", "pos_drop_rate")
    },
    "global_pool": (lambda value: isinstance(value, str), "a word such as 'avg', or '' for no pooling"),
}


def check_values(name: str, arguments: Mapping[str, Any]) -> None:
    """Raise UserError for a value that no network of ours can be made with."""
    for argument, (fits, wanted) in _RULES.items():
        if argument in arguments and not fits(arguments[argument]):
            raise UserError(f"{name}: {argument} {arguments[argument]!r} must be {wanted}")


def check_file(checkpoint_path: str | Path | None) -> None:
    """Raise UserError where timm would find no file to load, and say so without its name."""
    if checkpoint_path and not Path(checkpoint_path).is_file():
        raise UserError(f"checkpoint_path {str(checkpoint_path)!r}: there is no such file")
