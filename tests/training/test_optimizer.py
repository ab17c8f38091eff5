"""Which parameters decay, and the learning rate of Eq. 9."""

import pytest
import torch
from timm import create_model
from torch import nn

from contagg.affinity import DepthwiseConv
from contagg.training.config import OptimizationConfig
from contagg.training.optimizer import build_optimizer, describe_groups, param_groups

CONFIG = OptimizationConfig()
MODELS = {
    "container_light_tiny": {"img_size": 32, "num_classes": 3},
    "container_tiny": {"img_size": 32, "num_classes": 3},
    "test_vit": {"num_classes": 3},
}


def should_decay(model: nn.Module, name: str) -> bool:
    """Kernels and matrices of layers and of static affinities; not norms, biases, gates, learnt positions, tokens."""
    owner = model.get_submodule(name.rpartition(".")[0])
    last = name.rpartition(".")[2]
    return last == "weight" and isinstance(owner, (nn.Linear, nn.Conv2d, DepthwiseConv))


@pytest.mark.parametrize("name", MODELS)
def test_only_kernels_and_matrices_decay(name: str) -> None:
    model = create_model(name, **MODELS[name])
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = {group["weight_decay"]: {names[id(p)] for p in group["params"]} for group in param_groups(model, CONFIG)}
    expected = {name for name in names.values() if should_decay(model, name)}
    assert groups[0.05] == expected
    assert groups[0.0] == set(names.values()) - expected


def test_gates_do_not_decay() -> None:
    model = create_model("container_light_tiny", img_size=32, gate="sigmoid")
    still = {id(p) for group in param_groups(model, CONFIG) if group["weight_decay"] == 0 for p in group["params"]}
    gates = [p for name, p in model.named_parameters() if "mixture" in name or "gate" in name or "alpha" in name]
    assert gates
    assert all(id(gate) in still for gate in gates)


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    model[0].requires_grad_(False)
    found = [p for group in param_groups(model, CONFIG) for p in group["params"]]
    assert {id(p) for p in found} == {id(p) for p in model[1].parameters()}


def test_learning_rate_follows_the_real_total_batch() -> None:
    config = OptimizationConfig(batch_size=128, accumulate=3, epochs=9)
    assert config.total_batch(world_size=8) == 3072
    assert config.peak_lr(world_size=8) == pytest.approx(5e-4 * 3072 / 512)
    absolute = OptimizationConfig(batch_size=128, lr=0.01, lr_batch_size=None, epochs=9)
    assert absolute.peak_lr(world_size=8) == 0.01


def test_the_optimizer_is_the_recipes() -> None:
    config = OptimizationConfig(betas=(0.8, 0.95), eps=1e-6, weight_decay=0.3)
    optimizer = build_optimizer(nn.Linear(3, 2), config)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {(group["betas"], group["eps"]) for group in optimizer.param_groups} == {((0.8, 0.95), 1e-6)}
    assert describe_groups(optimizer) == (
        "AdamW: 1 tensor (2 numbers) with weight decay 0, 1 tensor (6 numbers) with weight decay 0.3"
    )
