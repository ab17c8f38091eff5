"""Student and teacher of a recipe, and the weights they may begin from."""

from typing import Any

import torch
from torch import nn

from contagg.checkpoints.weights import load_into, read_dino, read_weights
from contagg.classification.building import build_model
from contagg.classification.recipe import ModelConfig
from contagg.data.config import CropsConfig
from contagg.errors import UserError
from contagg.self_supervised.head import DinoHead
from contagg.self_supervised.multi_crop import MultiCrop
from contagg.self_supervised.recipe import DinoConfig


def build_pair(model: ModelConfig, dino: DinoConfig, crops: CropsConfig) -> tuple[MultiCrop, MultiCrop, dict[str, Any]]:
    """Student and teacher, equal but for the teacher's lack of drop path, and the backbone's options.

    Raises:
        UserError: an unknown model, crops that it does not take, or weights that do not fit.
    """
    student, options = _build(model, dino)
    teacher, _ = _build(ModelConfig(**{**vars(model), "drop_path": 0.0}), dino)
    check_crops(student.backbone, model, crops)
    if model.init_from:
        begin_from(student, teacher, model.init_from)
    else:
        teacher.load_state_dict(student.state_dict())
    return student, teacher.requires_grad_(False), options


def _build(config: ModelConfig, dino: DinoConfig) -> tuple[MultiCrop, dict[str, Any]]:
    backbone, options = build_model(ModelConfig(**{**vars(config), "init_from": None}), num_classes=0)
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


def begin_from(student: MultiCrop, teacher: MultiCrop, path: str) -> None:
    """Load the original's checkpoint, both networks whole, or a weights file of the backbone into both."""
    whole = read_dino(path)
    if whole is None:
        state, _ = read_weights(path)
        for network in (student, teacher):
            load_into(network.backbone, state, repr(path))
        teacher.head.load_state_dict(student.head.state_dict())
        return
    for name, network in (("student", student), ("teacher", teacher)):
        load_into(network, whole[name], f"{name!r} in {path!r}")
