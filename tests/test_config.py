"""Ranges in the types of a recipe's fields, and keys that were renamed."""

import math
from typing import Any

import pytest

from contagg.config import RENAMED_KEYS, defaults
from contagg.data.coco.config import ResizingConfig
from contagg.data.config import AugmentationConfig, CropsConfig
from contagg.detection.config import DETECTION_DEFAULTS, DetectionRecipe, DetectorConfig
from contagg.detection.detr.config import SetConfig
from contagg.errors import UserError
from contagg.self_supervised.recipe import DinoConfig
from contagg.training.config import OptimizationConfig, RunConfig

WRONG: list[tuple[type, dict[str, Any], str]] = [
    (OptimizationConfig, {"epochs": 0}, "optimization.epochs must be at least 1, not 0"),
    (OptimizationConfig, {"lr": math.nan}, "optimization.lr must be above 0, not nan"),
    (OptimizationConfig, {"lr": math.inf}, "optimization.lr must be above 0, not inf"),
    (OptimizationConfig, {"max_grad_norm": 0.0}, "optimization.max_grad_norm must be above 0, not 0.0"),
    (OptimizationConfig, {"milestones": (3, 2)}, "optimization.milestones must ascend, not [3, 2]"),
    (OptimizationConfig, {"schedule": "linear"}, "optimization.schedule must be one of cosine, step, not linear"),
    (OptimizationConfig, {"warmup_steps": 3}, "set the first to 0 or the second to null"),
    (OptimizationConfig, {"schedule_by": "epoch", "schedule": "step"}, "schedule_by epoch goes with schedule cosine"),
    (OptimizationConfig, {"weight_decay": 0.0, "weight_decay_end": 0.1}, "weight_decay must be above 0 where"),
    (RunConfig, {"folder": "  "}, "run.folder must not be empty, not   "),
    (RunConfig, {"folder": "a", "seed": -1}, "run.seed must lie in [0, 9.22337e+18], not -1"),
    (AugmentationConfig, {"scale": (0.5, 1.5)}, "augmentation.scale must lie in (0, 1], not [0.5, 1.5]"),
    (AugmentationConfig, {"ratio": (2.0, 1.0)}, "augmentation.ratio must ascend, not [2.0, 1.0]"),
    (CropsConfig, {"jitter": (0.4, 0.4, 0.2, 0.6)}, "crops.jitter must lie in [0, 0.5], not [0.4, 0.4, 0.2, 0.6]"),
    (SetConfig, {"stride": 12}, "model.detr.stride must be one of 4, 8, 16, 32, not 12"),
    (RunConfig, {"folder": "a\0b"}, "run.folder must hold no NUL"),
    (DetectorConfig, {"detections_per_image": 1.5}, "model.detections_per_image must be a whole number, not 1.5"),
    (DetectorConfig, {"checkpointing": "x"}, "model.checkpointing must be true or false, not x"),
    (DetectorConfig, {"anchor_size": "x"}, "model.anchor_size must be a whole number, not x"),
    (DetectorConfig, {"anchor_size": True}, "model.anchor_size must be a whole number, not True"),
    (DetectorConfig, {"drop_path": None}, "model.drop_path must be a number, not None"),
    (DetectorConfig, {"options": [1]}, "model.options must be keys and values, not [1]"),
    (DetectorConfig, {"backbone": ["a"]}, "model.backbone must be text, not ['a']"),
    (ResizingConfig, {"short_sides": (96.5,)}, "augmentation.short_sides must be a whole number, not [96.5]"),
    (ResizingConfig, {"short_sides": 96}, "augmentation.short_sides must be [a whole number, ...], not 96"),
    (ResizingConfig, {"crop_sides": (96,)}, "crop_sides must be [a whole number, a whole number], not [96]"),
    (ResizingConfig, {"short_sides": (10_000,), "long_side": 10_000}, "of up to 100,000,000 pixels; 4,194,304 are"),
    (SetConfig, {"queries": 3.0}, "model.detr.queries must be a whole number, not 3.0"),
    (DinoConfig, {"center_momentum": 1.5}, "dino.center_momentum must lie in [0, 1], not 1.5"),
]


@pytest.mark.parametrize(("owner", "values", "message"), WRONG, ids=[message for *_, message in WRONG])
def test_a_value_out_of_its_range_is_named(owner: type, values: dict, message: str) -> None:
    values = ({"detector": "retinanet", "norm": "train"} if owner is DetectorConfig else {}) | values
    with pytest.raises(UserError) as error:
        owner(**values)
    assert message in str(error.value)


def test_bounds_themselves() -> None:
    assert OptimizationConfig(weight_decay=0.0, max_grad_norm=None, betas=(0.0, 0.999)).weight_decay == 0
    assert AugmentationConfig(scale=(1.0, 1.0)).scale == (1.0, 1.0)


def test_a_tasks_own_defaults_are_those_of_its_recipe() -> None:
    """A key that an old recipe.yaml lacks counts as its task's default, not DeiT's."""
    model = DetectorConfig(detector="retinanet", norm="train")
    recipe = DetectionRecipe(task="detection", model=model, data=None, run=RunConfig(folder="a"))
    assert recipe.optimization == DETECTION_DEFAULTS
    assert defaults(recipe)["optimization"]["epochs"] == 12
    assert "detector" not in defaults(recipe)["model"] and defaults(recipe)["model"]["drop_path"] == 0.1


def test_renamed_keys_are_keys_no_more_and_what_they_are_now_is() -> None:
    names = {f"optimization.{name}" for name in OptimizationConfig.__dataclass_fields__}
    for old, new in RENAMED_KEYS.items():
        if old.startswith("optimization."):
            assert old not in names
            assert new.split(",")[0] in names
