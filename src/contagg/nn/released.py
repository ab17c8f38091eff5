"""The authors' names for `container_v1_light`, and ours."""

import re

import torch
from torch import Tensor

StateDict = dict[str, Tensor]

RELEASED_STEM = "patch_embed1.proj.weight"
"""By this name a state dict is known as the authors'."""

# Released name -> ours, where they differ; applied in order to a name's whole text.
_RENAMES = (
    (r"patch_embed(\d)\.proj\.", lambda m: f"stages.{int(m[1]) - 1}.embedding.projection."),
    (r"patch_embed(\d)\.norm\.", lambda m: f"stages.{int(m[1]) - 1}.embedding.norm."),
    (r"blocks(\d)\.(\d+)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks.{m[2]}."),
    (r"\.pos_embed\.", ".position."),
    (r"\.conv2\.", ".aggregation.output."),
    (r"^head\.", "head.fc."),
    (r"\.attn\.(weight|bias)$", r".aggregation.affinity.\1"),
    (r"\.conv\.", ".aggregation.affinity.second."),
    (r"\.sa_weight$", ".aggregation.affinity.gate.weight"),
)
_QUERY_KEY_VALUE = ("affinity.first.query", "affinity.first.key", "value")


def from_released(released: StateDict) -> StateDict:
    """The state dict of the authors' `container_v1_light` under our names.

    Their 1x1 convolutions become the same linear maps, and the joint projection of stage 4 its query, key and value.
    """
    ours: StateDict = {}
    for released_name, tensor in released.items():
        name = released_name
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement, name)
        if tensor.shape[2:] == (1, 1):
            tensor = tensor.flatten(1)
        if ".conv1." not in name:
            ours[name] = tensor
        elif name.startswith("stages.3."):
            for part, third in zip(_QUERY_KEY_VALUE, tensor.chunk(3), strict=True):
                ours[name.replace("conv1", f"aggregation.{part}")] = third.clone()
        else:
            ours[name.replace("conv1", "aggregation.value")] = tensor
    return ours


def to_released(ours: StateDict) -> StateDict:
    """The inverse of `from_released`: a `container_v1_light` that the authors' code loads."""
    released: StateDict = {}
    for our_name, tensor in ours.items():
        name = re.sub(r"^stages\.(\d)\.embedding\.projection", lambda m: f"patch_embed{int(m[1]) + 1}.proj", our_name)
        name = re.sub(r"^stages\.(\d)\.embedding\.norm", lambda m: f"patch_embed{int(m[1]) + 1}.norm", name)
        name = re.sub(r"^stages\.(\d)\.blocks", lambda m: f"blocks{int(m[1]) + 1}", name)
        name = name.replace(".position.", ".pos_embed.").replace("head.fc.", "head.")
        joint = next((part for part in _QUERY_KEY_VALUE if f"aggregation.{part}." in name), None)
        if joint and name.startswith("blocks4"):
            name = name.replace(f"aggregation.{joint}", "conv1")
            if joint == _QUERY_KEY_VALUE[0]:
                parts = [ours[our_name.replace(joint, part)] for part in _QUERY_KEY_VALUE]
                tensor = torch.cat(parts)
            else:
                continue
        name = name.replace("aggregation.value", "conv1").replace("aggregation.output", "conv2")
        name = name.replace("aggregation.affinity.gate.weight", "sa_weight")
        name = name.replace("aggregation.affinity.second", "conv").replace("aggregation.affinity.", "attn.")
        if tensor.ndim == 2 and re.search(r"\.(conv[12]|fc[12])\.weight$", name):
            tensor = tensor[:, :, None, None]
        released[name] = tensor
    return released


def is_released(state: StateDict) -> bool:
    """Whether a state dict carries the names of the authors' release."""
    return RELEASED_STEM in state
