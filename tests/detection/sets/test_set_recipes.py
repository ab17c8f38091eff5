"""The recipes of the composed set: a plain convolutional backbone of the same size beside ours (Table 5's shape)."""

from dataclasses import asdict
from pathlib import Path

import pytest

from contagg.benchmark.cost import parameter_count
from contagg.cli import TASKS
from contagg.detection.backbone import Features
from contagg.training.recipe_file import read_recipe

COMPOSED = Path(__file__).parents[3] / "recipes/composed"


def recipe(name: str) -> dict:
    return asdict(read_recipe(["-c", str(COMPOSED / f"{name}.yaml")], TASKS))


def features(model: dict, stride: int) -> Features:
    return Features(model["backbone"], (stride,), frozen=False, **model["options"])


@pytest.mark.parametrize("detector", ["detr", "deformable_detr", "smca_detr"])
def test_a_plain_backbone_of_the_same_size_is_all_that_differs(detector: str) -> None:
    ours, plain = recipe(detector), recipe(f"{detector}_resnet")
    head = (COMPOSED / f"{detector}_resnet.yaml").read_text().split("task:")[0]
    for stride in (ours["model"]["sets"]["stride"], 32):
        one, other = (features(content["model"], stride) for content in (ours, plain))
        counts = parameter_count(one), parameter_count(other)
        assert one.channels == other.channels
        assert counts[1] == pytest.approx(counts[0], rel=0.02)
        assert all(f"{count:,}" in head for count in counts)
    for content in (ours, plain):
        del content["model"]["backbone"], content["model"]["options"], content["run"]["folder"]
    assert ours == plain
