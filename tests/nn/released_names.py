"""Our weights under the authors' names, to make files as they have them."""

import re

import torch

from contagg.nn.released import _QUERY_KEY_VALUE, StateDict


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
