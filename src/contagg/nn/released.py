"""The authors' names for `container_v1_light`, and ours."""

import re

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


def is_released(state: StateDict) -> bool:
    """Whether a state dict carries the names of the authors' release."""
    return RELEASED_STEM in state
