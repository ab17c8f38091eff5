"""Costs: counted against what is known of a network, for each task, and of which device."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from laboratory import written

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

import timm
import torch
from tiny_recipes import DINO, detection
from torch import nn

from contagg.affinity import Affinity
from contagg.benchmark.cost import multiply_adds, parameter_count
from contagg.lab.arms import Arms, read_arms
from contagg.lab.costs import estimate, measure, measured
from contagg.lab.making import Opener
from contagg.lab.sizes import _multiply_adds, network, size
from contagg.models import create


@pytest.mark.parametrize("word", ["dwconv5", "attention", "attention + dwconv3", "pooled4", "window7"])
def test_multiply_adds_are_those_of_bench(word: str) -> None:
    """Which counts shapes on the meta device; affinities that it sees whole count alike."""
    model = create("container_light_tiny", affinity=word, num_classes=3, img_size=64)
    assert _multiply_adds(model, torch.zeros(1, 3, 64, 64)) == pytest.approx(multiply_adds(model, (64, 64)), rel=0.02)


def test_of_affinities_counts_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of what the counter sees of them: here nothing of the dearest kind, and 1,000 for each position."""
    one, other = (create("container_light_tiny", affinity=word, num_classes=3) for word in ("identity", "dwconv5"))
    images, affinities = (
        torch.zeros(2, 3, 224, 224),
        [module for module in other.modules() if isinstance(module, Affinity)],
    )
    for affinity in affinities:
        monkeypatch.setattr(affinity, "multiply_adds", lambda grid: 1000 * grid[0] * grid[1])
    beyond = _multiply_adds(other, images) - _multiply_adds(one, images)
    positions = [height * width for height, width in other.config.grids((224, 224))]
    assert beyond == 2 * 1000 * sum(n * depth for n, depth in zip(positions, other.config.depths, strict=True))


def test_fused_attention_of_others_counts() -> None:
    model = timm.create_model("deit_tiny_patch16_224", num_classes=3)
    assert _multiply_adds(model, torch.zeros(1, 3, 224, 224)) == multiply_adds(model)
    assert model.training


def test_counting_leaves_modes_alone() -> None:
    model = create("container_light_tiny", num_classes=3)
    model.stages[1].eval()
    before = [module.training for module in model.modules()]
    _multiply_adds(model, torch.zeros(1, 3, 64, 64))
    assert [module.training for module in model.modules()] == before and True in before and False in before


class Asking(nn.Module):
    """Learnt queries, one set for each image, as DETR's."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.known = nn.Parameter(torch.ones(7, 11)), nn.Parameter(torch.ones(1), requires_grad=False)
        self.layer = nn.Linear(11, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(self.queries.expand(len(images), -1, -1))


@pytest.mark.parametrize("counted", [_multiply_adds, lambda model, images: multiply_adds(model)])
def test_counting_takes_views_of_parameters(counted: Callable[[nn.Module, torch.Tensor], int]) -> None:
    """Which torch's counter refuses where they could take a gradient; it is said after as before which do."""
    model = Asking()
    assert counted(model, torch.zeros(1, 3, 224, 224)) == 7 * 11 * 5
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == ["known"]


def arms_of(recipe: dict[str, Any], folder: Path, *words: str) -> Arms:
    return read_arms(["-c", written(folder, recipe)], [("affinity", [word]) for word in words])


@pytest.mark.parametrize("detector", ["retinanet", "detr", "smca_detr", "deformable_detr"])
def test_of_each_detector(detector: str, composed: Path, tmp_path: Path) -> None:
    """One image of 96 pixels takes at least what its backbone takes of 64."""
    recipe = detection(composed)
    recipe["model"] |= {"detector": detector, "detr": {"width": 32, "queries": 7}}
    recipe["run"]["folder"] = "unused"
    arms = read_arms(["-c", written(tmp_path, recipe)], [("arm", ["one"])])
    backbone = create("container_light_tiny", num_classes=0, **recipe["model"]["options"])
    assert size(Opener(arms.recipe).job(arms.recipe)).multiply_adds > multiply_adds(backbone, (64, 64))


@pytest.mark.parametrize("task", ["dino", "detection"])
def test_other_tasks(task: str, composed: Path, tmp_path: Path) -> None:
    recipe = DINO if task == "dino" else detection(composed)
    recipe = recipe | {"run": recipe["run"] | {"folder": "unused"}}
    arms = arms_of(recipe, tmp_path, "dwconv3", "identity")
    opener = Opener(arms.recipe)
    jobs = [opener.job(arm.recipe) for arm in arms.arms]
    sizes = [size(job) for job in jobs]
    assert sizes[0].parameters == parameter_count(network(jobs[0])) > sizes[1].parameters
    assert min(of.multiply_adds for of in sizes) > 10_000
    assert task == "detection" or sizes[0].multiply_adds > sizes[1].multiply_adds
    costs = measure(arms, opener, rounds=1)
    found = measured(costs, arms)
    assert found is not None and found["identity"].train_ms > 0 and found["dwconv3"].inference_mb > 0
    assert costs["about"]["batch"] == recipe["optimization"]["batch_size"]
    assert measured(costs, arms.changed(arms["identity"], {"model.options.affinity": "pool3"})) is None
    assert estimate(arms["identity"], opener) > 0
