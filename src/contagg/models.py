"""The named networks, registered with timm. Table 2 is a table of words here.

Paper: "Container: Context Aggregation Network", Gao, Lu, Li, Mottaghi, Kembhavi, 2021, https://arxiv.org/abs/2106.01401
Their code: https://github.com/allenai/container, whose checkpoint loads into `container_v1_light` under its own names.

What was changed: any image size is served (the release has 224 pixels), images off the stride are filled with zeros,
positions and static N x N are resized with the network. docs/which-container.md tells the paper's three forms apart.

Another network is one entry of `CONFIGS`: timm, the command line, recipes and tests find it there.

Examples:

>>> import torch
>>> model = timm.create_model("container_light_tiny", num_classes=10)
>>> model(torch.zeros(2, 3, 64, 96)).shape
torch.Size([2, 10])
>>> backbone = create("container_light_tiny", features_only=True)
>>> for found in backbone(torch.zeros(1, 3, 64, 96)):
...     print(*found.shape)
1 32 16 24
1 64 8 12
1 128 4 6
1 192 2 3
"""

import json
from dataclasses import fields, replace
from typing import Any

import timm
from timm.models import generate_default_cfgs, get_pretrained_cfg, register_model
from torch import nn

from contagg.errors import UserError, nearest
from contagg.files import PACKAGED
from contagg.nn import vit as vit  # registers DeiT with PAM
from contagg.nn.build import build, check_file, check_names, pretrained_cfg
from contagg.nn.network import Container
from contagg.nn.stages import NetworkConfig

_TABLE2 = NetworkConfig()
_LIGHT = replace(_TABLE2, affinity=("dwconv5", "dwconv5", "dwconv5", "attention + dwconv5"), position="cpe")

# What was learnt since (docs/which-network.md): attention already where a token is 16 pixels, patches that overlap,
# ReLU, and fewer multiply-adds on the wide maps of stages 1 and 2, through which everything passes memory.
_NEXT = replace(
    _LIGHT,
    embed_dims=(48, 96, 256, 576),
    depths=(2, 2, 8, 3),
    affinity=("dwconv5", "dwconv5", ["dwconv5"] * 4 + ["attention + dwconv5"] * 4, "attention + dwconv5"),
    embedding="overlapping",
    activation="relu",
)

CONFIGS: dict[str, NetworkConfig] = {
    # The paper's two networks; the form of the second that its authors released; the first as Sec. 3.4 words it.
    "container": _TABLE2,
    "container_light": _LIGHT,
    "container_v1_light": replace(_LIGHT, mlp_ratios=(8, 8, 4, 4), gate="sigmoid"),
    "container_text": replace(_TABLE2, embed_dims=(128, 256, 320, 512), depths=(2, 3, 8, 3)),
    "container_next": _NEXT,
    "container_pam": replace(_TABLE2, affinity="attention + token mlp"),
    # The other rows of Table 2.
    "container_attention": replace(_TABLE2, affinity="attention"),
    "container_full_conv3": replace(_TABLE2, affinity="full-conv3"),
    "container_group_conv3": replace(_TABLE2, affinity="group-conv3/8"),
    "container_dw3": replace(_TABLE2, affinity="dwconv3"),
    "container_mh_dw3": replace(_TABLE2, affinity="dwconv3/32"),
    "container_mlp": replace(_TABLE2, affinity="token mlp"),
    # The paper gives no ranks; these meet its parameter counts with one fraction of N in every stage.
    "container_mlp_lr": replace(_TABLE2, affinity=tuple(f"token mlp rank {rank}" for rank in (868, 217, 54, 14))),
    "container_mh_mlp_lr": replace(_TABLE2, affinity=tuple(f"token mlp/32 rank {rank}" for rank in (500, 125, 31, 8))),
    # What others put in the place of attention, in CONTAINER-LIGHT's network: the same embeddings, positions, norms,
    # projections and MLPs, so that two of these differ by their mixers alone. docs/which-network.md tells from what.
    "poolformer_like": replace(_LIGHT, affinity="pool3"),
    "convnext_like": replace(_LIGHT, affinity="dwconv7"),
    "swin_like": replace(_LIGHT, affinity=[(["window7", "window7 shifted"] * 4)[:depth] for depth in _LIGHT.depths]),
    "pvt_like": replace(_LIGHT, affinity=("pooled8", "pooled4", "pooled2", "attention")),
    "caformer_like": replace(_LIGHT, affinity=("dwconv7", "dwconv7", "attention", "attention")),
    "uniformer_like": replace(_LIGHT, affinity=("dwconv5", "dwconv5", "attention", "attention")),
    "vmamba_like": replace(_LIGHT, affinity="cross scan16"),
    # For CPUs.
    "container_tiny": replace(_TABLE2, embed_dims=(32, 64, 128, 192), depths=(1, 1, 2, 1)),
    "container_light_tiny": replace(_LIGHT, embed_dims=(32, 64, 128, 192), depths=(1, 1, 2, 1)),
    "container_next_tiny": replace(
        _NEXT,
        embed_dims=(24, 48, 96, 192),
        depths=(1, 1, 2, 1),
        affinity=("dwconv5", "dwconv5", ["dwconv5", "attention + dwconv5"], "attention + dwconv5"),
    ),
}


_UNTRAINED = {
    name: pretrained_cfg(config.first_conv, "head.fc", (7, 7), config.fixed_input_size)
    for name, config in CONFIGS.items()
}


def _with_weights() -> dict[str, Any]:
    """What timm is to know of the weights that come with the package, by name and tag."""
    found = {}
    for file in sorted(PACKAGED.glob("*.json")):
        said = json.loads(file.read_text())
        said = {key: tuple(value) if isinstance(value, list) else value for key, value in said.items()}
        name = file.stem.split(".")[0]
        map_size = list(CONFIGS[name].grids(said["input_size"][1:]))[-1]
        weights = str(file.with_suffix(".safetensors"))
        found[file.stem] = _UNTRAINED[name] | {"pool_size": map_size} | said | {"file": weights}
    return found


default_cfgs = generate_default_cfgs(
    _with_weights() | {f"{name}.untrained": entry for name, entry in _UNTRAINED.items()}
)
_FIELDS = [field.name for field in fields(NetworkConfig)]


def _register(name: str, config: NetworkConfig) -> None:
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        """Any field of NetworkConfig, such as `affinity`, may be given beside timm's own arguments."""
        check_names(name, kwargs, Container, _FIELDS)
        if not pretrained and kwargs.get("pretrained_cfg") is None:
            kwargs["pretrained_cfg"] = "untrained"  # 1,000 classes, whatever weights come with the package
        changed = {field: kwargs.pop(field) for field in _FIELDS if field in kwargs}
        return build(Container, name, pretrained, (0, 1, 2, 3), model_cfg=replace(config, **changed), **kwargs)

    entrypoint.__name__ = name
    register_model(entrypoint)


for _name, _config in CONFIGS.items():
    _register(_name, _config)


def create(name: str, **arguments: Any) -> nn.Module:
    """`timm.create_model` with an answer for an unknown name: any of our networks or timm's.

    Args:
        arguments: those of timm's `create_model`, and for ours any field of `NetworkConfig`.

    Raises:
        UserError: the name or an argument is unknown (with the nearest match), or a value is one that cannot be.

    >>> create("container_light_tiny", affinity="dwconv3", embed_dims=(8, 8, 16, 16), num_classes=0).num_features
    16
    """
    if not isinstance(name, str):
        raise UserError(f"model {name!r} must be a name. See `timm.list_models()`.")
    check_file(arguments.get("checkpoint_path"))
    if ":" not in name:
        _check_known(name)
    return timm.create_model(name, **arguments)


def _check_known(name: str) -> None:
    """UserError for a network that there is not, or for a tag behind its name that it does not have."""
    if not timm.is_model(name.split(".")[0]):
        raise UserError(f"unknown model {name!r}.{nearest(name, timm.list_models())} See `timm.list_models()`.")
    try:
        get_pretrained_cfg(name)
    except RuntimeError as error:
        known = timm.list_pretrained(f"{name.split('.')[0]}.*")
        raise UserError(f"unknown model {name!r}: {str(error).rstrip('.')}.{nearest(name, known)}") from error
