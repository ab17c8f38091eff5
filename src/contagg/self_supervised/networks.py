"""Student and teacher of a recipe, and the weights they may begin from."""

from typing import Any

import torch
from torch import nn

from contagg.checkpoints.fitting import init_weights, load_into
from contagg.checkpoints.reading import read_checkpoint
from contagg.data.config import CropsConfig
from contagg.errors import UserError
from contagg.self_supervised.head import DinoHead
from contagg.self_supervised.multi_crop import MultiCrop
from contagg.self_supervised.recipe import DinoConfig
from contagg.training.building import build_model
from contagg.training.config import ModelConfig
from contagg.training.run_folder import is_first_process


def build_pair(model: ModelConfig, dino: DinoConfig, crops: CropsConfig) -> tuple[MultiCrop, MultiCrop, dict[str, Any]]:
    """Student and teacher, equal but for the teacher's lack of drop path, and the backbone's options.

    Raises:
        UserError: an unknown model, crops that it does not take, or weights that do not fit.
    """
    student, options = _build(model, dino)
    teacher, _ = _build(ModelConfig(**{**vars(model), "drop_path": 0.0}), dino)
    check_crops(student.backbone, model, crops)
    if model.init_weights:
        begin_from(student, teacher, model.init_weights, model.init_ema)
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


def begin_from(student: MultiCrop, teacher: MultiCrop, path: str, ema: bool = False) -> None:
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
