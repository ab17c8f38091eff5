"""DINO's networks: a backbone with a projection head over crops of several sizes, twice, and what they begin from.

Parameters are named as the original's, `backbone.*` and `head.*`, so that its checkpoints load.
Shapes: B samples, D features of the backbone, H hidden, P bottleneck, K outputs.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from contagg.checkpoints.fitting import init_weights, load_into
from contagg.checkpoints.reading import read_checkpoint
from contagg.data.config import CropsConfig
from contagg.errors import UserError
from contagg.self_supervised.recipe import DinoConfig
from contagg.training.building import build_model
from contagg.training.config import ModelConfig
from contagg.training.run_folder import is_first_process


class NormalizedLinear(nn.Module):
    """A linear layer without bias whose K rows have unit length times a gain: (B, P) -> (B, K).

    The gain `weight_g` stays at 1 unless `learn_gain`; DINO's teacher and, by default, its student never learn it.
    """

    def __init__(self, in_features: int, out_features: int, learn_gain: bool = False) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(out_features, 1), requires_grad=learn_gain)
        self.weight_v = nn.Parameter(nn.Linear(in_features, out_features, bias=False).weight.detach())

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(features, self.weight_g * F.normalize(self.weight_v, dim=1))


class DinoHead(nn.Module):
    """Three linear layers with GELU, L2 normalization, and a layer of prototypes: (B, D) -> (B, K).

    Args:
        in_features: D.
        outputs: K.
        hidden: H.
        bottleneck: P.
    """

    def __init__(self, in_features: int, outputs: int = 65536, hidden: int = 2048, bottleneck: int = 256) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(in_features, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last_layer = NormalizedLinear(bottleneck, outputs)

    def forward(self, features: Tensor) -> Tensor:
        return self.last_layer(F.normalize(self.mlp(features), dim=-1))


class MultiCrop(nn.Module):
    """Runs the backbone once for each run of crops of one size, and the head once over all.

    BatchNorm therefore sees one batch a size: two a step for a student of global and local crops.

    Args:
        backbone: (B, C, H, W) -> (B, D), for every size of crop.
        head: (B, D) -> (B, K).
    """

    def __init__(self, backbone: nn.Module, head: DinoHead) -> None:
        super().__init__()
        self.backbone: nn.Module = backbone
        self.head: DinoHead = head

    def forward(self, crops: Sequence[Tensor]) -> Tensor:
        """n crops, each of the same B images, (B, C, H, W) -> (n * B, K), crop after crop."""
        same_size = [list(group) for _, group in groupby(crops, key=lambda crop: crop.shape[-2:])]
        return self.head(torch.cat([self.backbone(torch.cat(group)) for group in same_size]))


def build_pair(model: ModelConfig, dino: DinoConfig, crops: CropsConfig) -> tuple[MultiCrop, MultiCrop, dict[str, Any]]:
    """Student and teacher, equal but for the teacher's lack of drop path, and the backbone's options.

    Raises:
        UserError: an unknown model, crops that it does not take, or weights that do not fit.
    """
    student, options = _build(model, dino)
    teacher, _ = _build(ModelConfig(**{**vars(model), "drop_path": 0.0}), dino)
    check_crops(student.backbone, model, crops)
    if model.init_weights:
        init_both(student, teacher, model.init_weights, model.init_ema)
    else:
        teacher.load_state_dict(student.state_dict())
    return student, teacher.requires_grad_(False), options


def _build(config: ModelConfig, dino: DinoConfig) -> tuple[MultiCrop, dict[str, Any]]:
    backbone, options = build_model(ModelConfig(**{**vars(config), "init_weights": None}), num_classes=0)
    # Some of timm's networks widen their features before the classifier, MobileNetV3 for one.
    width = getattr(backbone, "head_hidden_size", None) or backbone.num_features
    head = DinoHead(int(width), dino.outputs, dino.hidden, dino.bottleneck)  # type: ignore[arg-type]
    return MultiCrop(backbone, head), options


def check_crops(backbone: nn.Module, model: ModelConfig, crops: CropsConfig) -> None:
    """UserError for sizes that are no multiple of the backbone's last stride, or that it refuses."""
    stride = max((feature["reduction"] for feature in getattr(backbone, "feature_info", [])), default=1)
    sizes = {"model.image_size": model.image_size}
    if crops.local_count:
        sizes["crops.local_size"] = crops.local_size
    was_training = backbone.training
    for name, size in sizes.items():
        if size % stride:
            raise UserError(f"{name} {size} does not fit {model.name}: take a multiple of its stride {stride}")
        try:
            with torch.no_grad():
                backbone.eval()(torch.zeros(1, model.channels, size, size))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"{name} {size} does not fit {model.name}: {' '.join(str(error).split())} "
                "(timm's vision transformers take other sizes with model.options.dynamic_img_size true, "
                "its Swin with strict_img_size false)"
            ) from error
    backbone.train(was_training)


def init_both(student: MultiCrop, teacher: MultiCrop, path: str, ema: bool = False) -> None:
    """Load a checkpoint of DINO, both networks whole, or what `init_weights` takes into both backbones."""
    whole = read_checkpoint(path).dino()
    if whole is not None:
        for name, network in (("student", student), ("teacher", teacher)):
            load_into(network, whole[name], f"{name!r} in {path!r}")
        return
    lines = init_weights(student.backbone, path, ema=ema)
    teacher.load_state_dict(student.state_dict())
    if lines and is_first_process():
        print("\n".join(lines), flush=True)
