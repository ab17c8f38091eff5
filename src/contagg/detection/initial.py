"""A detector's backbone from a file of a classifier's weights."""

from typing import Any

from timm.models._features import FeatureGetterNet

from contagg.checkpoints.weights import read_weights
from contagg.detection.backbone import Features
from contagg.errors import UserError
from contagg.nn.released import from_released, is_released


def load_backbone(features: Features, path: str) -> str:
    """Load what fits the backbone, and say in one line what was loaded and what was not.

    Takes a run's file, timm's, or the released one. The classifier and what lies behind the last feature stay out.

    Raises:
        UserError: the file is none, fits nothing, or has a tensor of another shape.
    """
    state, _ = read_weights(path)
    if is_released(state):
        state = from_released(state)
    body: Any = features.body.model if isinstance(features.body, FeatureGetterNet) else features.body
    wanted = body.state_dict()
    # timm flattens the names of some networks when it takes their features: stages.0 becomes stages_0.
    given = {_flat(name): name for name in state}
    found = {name: state[given[_flat(name)]] for name in wanted if _flat(name) in given}
    if not found:
        raise UserError(f"model.init_from {path}: none of its {len(state)} tensors is one of the backbone's")
    for name, tensor in found.items():
        if tensor.shape != wanted[name].shape:
            raise UserError(
                f"model.init_from {path}: {name} is {tuple(tensor.shape)} there and {tuple(wanted[name].shape)} in the "
                "backbone; is it of another network, or does it need model.options such as img_size?"
            )
    body.load_state_dict(found, strict=False)
    missing = sorted(set(wanted) - set(found))
    used = {given[_flat(name)] for name in found}
    left = sorted(set(state) - used)
    return (
        f"backbone: {len(found)} of {len(wanted)} tensors loaded from {path}; "
        f"not in the file: {_listed(missing)}; not used: {_listed(left)}"
    )


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _listed(names: list[str], count: int = 4) -> str:
    return (", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")) or "none"
