"""The recipes: the originals' values for COCO; on the composed set a plain backbone beside ours (Table 5's shape)."""

from dataclasses import asdict
from pathlib import Path

import pytest

from contagg.benchmark.cost import parameter_count
from contagg.detection.backbone import Features
from contagg.tasks import recipes
from contagg.training.recipe_file import read_recipe

RECIPES = Path(__file__).parents[3] / "recipes"
FOCAL = {"class_loss": "focal", "class_weight": 2.0}
ENTROPY = {"class_loss": "cross_entropy", "class_weight": 1.0, "no_object_weight": 0.1}
OF_ALL = {"stride": 32, "width": 256, "heads": 8, "encoder_layers": 6, "decoder_layers": 6, "dropout": 0.1}
OF_ALL |= {"box_weight": 5.0, "giou_weight": 2.0}


def recipe(name: str) -> dict:
    return asdict(read_recipe(["-c", str(RECIPES / f"{name}.yaml")], recipes()))


@pytest.mark.parametrize(
    ("detector", "sets", "rate", "sampling", "epochs", "drop", "total"),
    [
        ("detr", {"queries": 100, "feedforward": 2048} | ENTROPY, 1e-4, 1.0, 300, 200, 16),
        ("deformable_detr", {"queries": 300, "feedforward": 1024, "points": 4} | FOCAL, 2e-4, 0.1, 50, 40, 32),
        ("smca_detr", {"queries": 300, "feedforward": 2048} | FOCAL, 1e-4, 1.0, 50, 40, 16),
    ],
)
def test_cocos_recipes_are_the_originals(
    detector: str, sets: dict, rate: float, sampling: float, epochs: int, drop: int, total: int
) -> None:
    found = recipe(f"coco/{detector}_container_light")
    assert (found["model"]["detector"], found["model"]["norm"]) == (detector, "frozen")
    assert found["model"]["detr"] | OF_ALL | sets == found["model"]["detr"]
    optimization = found["optimization"]
    expected = {
        "lr": rate,
        "lr_batch_size": None,
        "backbone_lr_multiplier": 0.1,
        "sampling_lr_multiplier": sampling,
        "warmup_steps": 0,
    }
    expected |= {"weight_decay": 1e-4, "weight_decay_for": "all", "max_grad_norm": 0.1, "accumulate": 1}
    expected |= {"epochs": epochs, "schedule": "step", "milestones": (drop,), "gamma": 0.1}
    assert optimization | expected == optimization
    assert optimization["batch_size"] * found["run"]["devices"] * found["run"]["nodes"] == total
    assert found["augmentation"] == {
        "short_sides": tuple(range(480, 801, 32)), "long_side": 1333, "horizontal_flip": 0.5,
        "crop": 0.5, "crop_short_sides": (400, 500, 600), "crop_sides": (384, 600),
    }  # fmt: skip


def features(model: dict, stride: int) -> Features:
    return Features(model["backbone"], (stride,), frozen=False, **model["options"])


@pytest.mark.parametrize("detector", ["detr", "deformable_detr", "smca_detr"])
def test_a_plain_backbone_of_the_same_size_is_all_that_differs(detector: str) -> None:
    ours, plain = recipe(f"composed/{detector}"), recipe(f"composed/{detector}_resnet")
    head = (RECIPES / f"composed/{detector}_resnet.yaml").read_text().split("task:")[0]
    for stride in (ours["model"]["detr"]["stride"], 32):
        one, other = (features(content["model"], stride) for content in (ours, plain))
        counts = parameter_count(one), parameter_count(other)
        assert one.channels == other.channels
        assert counts[1] == pytest.approx(counts[0], rel=0.02)
        assert all(f"{count:,}" in head for count in counts)
    for content in (ours, plain):
        for key in ("backbone", "options", "init_weights"):
            del content["model"][key]
        del content["run"]["folder"]
    assert ours == plain
