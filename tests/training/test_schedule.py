"""The learning rate over 300 epochs, as a list, against timm's own factory and against the formula."""

import math

import pytest
import torch
from timm.scheduler import create_scheduler_v2
from torch import nn

from contagg.training.config import OptimizationConfig
from contagg.training.schedule import cosine_schedule


def optimizer_at(rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(nn.Linear(2, 2).parameters(), lr=rate)


def rates(scheduler: object, optimizer: torch.optim.Optimizer, epochs: int) -> list[float]:
    found = []
    for epoch in range(epochs):
        scheduler.step(epoch)
        scheduler.step_update(epoch * 7)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_equals_deits_over_300_epochs() -> None:
    config = OptimizationConfig()
    peak = config.peak_learning_rate(world_size=8)
    ours, theirs = optimizer_at(peak), optimizer_at(peak)
    deit, epochs = create_scheduler_v2(
        theirs, sched="cosine", num_epochs=300, warmup_epochs=5, warmup_lr=1e-6, min_lr=1e-5, cooldown_epochs=0
    )
    assert epochs == 300
    found = rates(cosine_schedule(ours, config), ours, 300)
    assert found == rates(deit, theirs, 300)
    warm = [1e-6 + epoch * (peak - 1e-6) / 5 for epoch in range(5)]
    cosine = [1e-5 + (peak - 1e-5) * (1 + math.cos(math.pi * epoch / 300)) / 2 for epoch in range(5, 300)]
    assert found == pytest.approx(warm + cosine, rel=1e-12)


def test_the_rate_of_an_epoch_needs_no_memory() -> None:
    config = OptimizationConfig(epochs=11, warmup_epochs=3)
    one, other = optimizer_at(0.01), optimizer_at(0.01)
    in_order = rates(cosine_schedule(one, config), one, 11)
    schedule = cosine_schedule(other, config)
    backwards = []
    for epoch in reversed(range(11)):
        schedule.step(epoch)
        backwards.append(other.param_groups[0]["lr"])
    assert backwards[::-1] == in_order
