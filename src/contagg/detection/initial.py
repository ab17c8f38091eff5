"""A detector's start from weights: those of a detector, or of a classifier for its backbone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.models._features import FeatureGetterNet
from torch import nn

from contagg.checkpoints.fitting import adapted, image_size_of, renamed, whole_numbers
from contagg.checkpoints.reading import Checkpoint, read_checkpoint
from contagg.detection.backbone import Features
from contagg.device import require_finite
from contagg.errors import UserError, plural, printable
from contagg.nn.released import StateDict

_OF_CLASSES = ("cls_logits.", "cls_score.", "bbox_pred.", "mask_fcn_logits.", "class_head.")
"""Layers of which one or several outputs are a class's."""


def init_detector(
    model: nn.Module, features: Features, path: str, *, ema: bool = False, class_names: Sequence[str] | None = None
) -> str:
    """Load what fits, and say in one line what was loaded and what was not.

    Takes a detector's file, of which all is loaded that has a name and shape of this one's but heads for other
    classes; or what classification begins from, for the backbone.

    Args:
        model: The detector.
        features: Its backbone.
        path, ema, class_names: As in `contagg.checkpoints.fitting.init_weights`.

    Raises:
        UserError: the file is none, fits nothing, or has a tensor of another shape in the backbone.
    """
    checkpoint = read_checkpoint(path)
    state, which = checkpoint.network(ema)
    wanted, body = model.state_dict(), _body(features)
    given, alone = renamed(state, wanted)[0], renamed(state, body.state_dict())[0]
    other = _other_network(checkpoint.metadata, features.name)
    if len(given.keys() & wanted.keys()) <= len(alone.keys() & body.state_dict().keys()):
        return _load_backbone(body, checkpoint, state, which) + other
    others = checkpoint.other_classes(class_names)
    fresh = [name for name in wanted if name in given and others and _is_of_classes(name)]
    fresh += [name for name in wanted if name in given and given[name].shape != wanted[name].shape]
    backbone = f"{next(name for name, part in model.named_modules() if part is body)}."
    _check_shapes({name: given[name] for name in fresh if name.startswith(backbone)}, wanted, checkpoint)
    for name in fresh:
        given.pop(name, None)
    note = f"; for other classes or of another shape, so these start anew: {_listed(sorted({*fresh}))}" * bool(fresh)
    line = f"detector: {{}} of {plural(len(wanted), 'tensor')} loaded from {checkpoint.path}"
    return _load(model, given, line, which, checkpoint.path, fresh) + note + other


def _load_backbone(body: nn.Module, checkpoint: Checkpoint, state: StateDict, which: str) -> str:
    path, wanted = checkpoint.path, body.state_dict()
    given, _ = renamed(state, wanted)
    if not given.keys() & wanted.keys():
        raise UserError(
            f"model.init_weights {path}: none of its {plural(len(state), 'tensor')} is one of the backbone's"
        )
    given, lines = adapted(body, given, f"model.init_weights {path}", image_size_of(checkpoint.metadata))
    _check_shapes(given, wanted, checkpoint)
    said = _load(body, given, f"backbone: {{}} of {plural(len(wanted), 'tensor')} loaded from {path}", which, path)
    return "; ".join([said, *lines])


def _other_network(metadata: Mapping[str, Any], backbone: str) -> str:
    """What is to be said where a run's file is of another network: what two have in common may be little."""
    parts = ((metadata.get(section), key) for section, key in (("model", "name"), ("detector", "backbone")))
    names = [part[key] for part, key in parts if isinstance(part, dict) and isinstance(part.get(key), str)]
    there, here = (name.partition(".")[0] for name in ([*names, backbone][0], backbone))  # a tag is of weights
    return f"; it is of the network {printable(there)!r}, the backbone is {here!r}" * (there != here)


def _load(model: nn.Module, given: StateDict, said: str, which: str, path: Path, fresh: Sequence[str] = ()) -> str:
    """Load what is given. `fresh` are tensors that the file has, and that are told of elsewhere."""
    wanted = model.state_dict()
    found = {name: given[name] for name in wanted if name in given}
    source = f"model.init_weights {path}"
    if whole := whole_numbers(found, wanted):
        raise UserError(f"{source}: {plural(len(whole), 'tensor')} of whole numbers: {_listed(whole)}")
    require_finite(found, source)
    with torch.no_grad():
        model.load_state_dict(found, strict=False)
    missing, left = sorted(wanted.keys() - found.keys() - set(fresh)), sorted(given.keys() - found.keys())
    which = f" ({which})" if which else ""
    return f"{said.format(len(found))}{which}; not in the file: {_listed(missing)}; not used: {_listed(left)}"


def _check_shapes(given: StateDict, wanted: StateDict, checkpoint: Checkpoint) -> None:
    for name, tensor in wanted.items():  # in the network's order: the first says the most
        if name in given and given[name].shape != tensor.shape:
            raise UserError(
                f"model.init_weights {checkpoint.path}: {name} is {tuple(given[name].shape)} there and "
                f"{tuple(tensor.shape)} in the backbone; is it of another network, or does it need "
                "model.options such as img_size?"
            )


def _is_of_classes(name: str) -> bool:
    return any(part in name for part in _OF_CLASSES) and ".rpn." not in name  # proposals are of no class


def _body(features: Features) -> Any:
    return features.body.model if isinstance(features.body, FeatureGetterNet) else features.body


def _listed(names: list[str], count: int = 4) -> str:
    return (", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")) or "none"
