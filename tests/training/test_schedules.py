"""The learning rate of a run: DeiT's loop with timm's scheduler in it, timm's by steps, DINO's and the detectors'."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from timm.scheduler import create_scheduler_v2
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import nn

from contagg.cli import main
from contagg.errors import UserError
from contagg.training.config import OptimizationConfig
from contagg.training.rows import read_metrics
from contagg.training.schedules import Schedules, SetSchedules, window

STEPS = 7


def optimizer_at(rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(nn.Linear(2, 2).parameters(), lr=rate)


def schedules(config: OptimizationConfig, world_size: int = 1) -> Schedules:
    return Schedules(config=config, peak_lr=config.peak_lr(world_size), steps_per_epoch=STEPS)


def test_by_the_epoch_it_is_deits_loop_over_300_epochs() -> None:
    """Its main.py: the scheduler is built, then `scheduler.step(epoch)` follows each epoch."""
    ours = schedules(OptimizationConfig(schedule_by="epoch"), world_size=8)
    theirs = optimizer_at(ours.peak_lr)
    scheduler, epochs = create_scheduler_v2(
        theirs, sched="cosine", num_epochs=300, warmup_epochs=5, warmup_lr=1e-6, min_lr=1e-5, cooldown_epochs=0
    )
    assert epochs == 300
    for epoch in range(epochs):
        for step in range(STEPS):
            assert ours.lr(epoch * STEPS + step) == theirs.param_groups[0]["lr"]
        scheduler.step(epoch)
    assert ours.lr(0) == ours.lr(STEPS) == 1e-6


@pytest.mark.parametrize(
    "warmup", [{"warmup_epochs": 3}, {"warmup_epochs": 0, "warmup_steps": 5}, {"warmup_epochs": 0}]
)
def test_by_the_step_it_is_timms(warmup: dict) -> None:
    config = OptimizationConfig(epochs=11, **warmup)
    ours = schedules(config)
    theirs = optimizer_at(ours.peak_lr)
    steps = config.warmup_steps or int(config.warmup_epochs * STEPS)
    scheduler = CosineLRScheduler(
        theirs, t_initial=11 * STEPS, lr_min=1e-5, warmup_t=steps, warmup_lr_init=1e-6, t_in_epochs=False
    )
    for step in range(11 * STEPS):
        scheduler.step_update(step)
        assert ours.lr(step) == theirs.param_groups[0]["lr"]


def test_a_fraction_of_an_epoch_warms_up() -> None:
    rates = schedules(OptimizationConfig(epochs=2, warmup_epochs=3 / 7, warmup_lr=0.0, lr=0.5, lr_batch_size=None))
    assert [rates.lr(step) for step in range(3)] == pytest.approx([0, 0.5 / 3, 1 / 3])
    assert rates.lr(3) < 0.5


def test_milestones_and_weight_decay() -> None:
    config = OptimizationConfig(epochs=4, schedule="step", milestones=(1.5, 3), gamma=0.5, warmup_epochs=0, lr=0.25)
    rates = schedules(replace(config, lr_batch_size=None, weight_decay=0.2, weight_decay_end=0.4))
    assert [rates.lr(step) for step in (0, 9, 10, 20, 21)] == [0.25, 0.25, 0.125, 0.125, 0.0625]
    assert [rates.weight_decay(step) for step in (0, 14, 28)] == pytest.approx([0.2, 0.3, 0.4])
    assert schedules(config).weight_decay(17) == 0.05


def trainer_of(batches: int, accumulate: int) -> SimpleNamespace:
    optimizer = torch.optim.AdamW([{"params": [nn.Parameter(torch.zeros(1))], "lr_scale": 1.0}])
    return SimpleNamespace(
        num_training_batches=batches, accumulate_grad_batches=accumulate, world_size=1, global_step=0,
        optimizers=[optimizer],
    )  # fmt: skip


def test_eq_9_goes_by_the_images_of_each_step() -> None:
    """64 x 128 images over 11 batches: a step of 1,408 images has their rate, not that of 8,192."""
    config = OptimizationConfig(batch_size=128, accumulate=64, epochs=9, warmup_epochs=0)
    trainer, setter = trainer_of(11, 64), SetSchedules(config)
    setter.on_train_start(trainer, None)
    assert setter.schedules.steps == 9
    setter.on_train_batch_start(trainer, None, None, 10)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(5e-4 * 1408 / 512)
    absolute = SetSchedules(replace(config, lr_batch_size=None))
    absolute.on_train_start(trainer, None)
    absolute.on_train_batch_start(trainer, None, None, 10)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 5e-4


def test_groups_keep_their_share_of_the_rate_and_what_does_not_decay_never_does() -> None:
    config = OptimizationConfig(
        epochs=9, warmup_epochs=0, lr=0.5, lr_batch_size=None, weight_decay=0.2, weight_decay_end=0.4
    )
    trainer, setter = trainer_of(10, 1), SetSchedules(config)
    trainer.optimizers = [
        torch.optim.AdamW(
            [
                {"params": [nn.Parameter(torch.zeros(1))], "lr_scale": 1.0, "weight_decay": 0.2},
                {"params": [nn.Parameter(torch.zeros(1))], "lr_scale": 0.1, "weight_decay": 0.0},
            ]
        )
    ]
    setter.on_train_start(trainer, None)
    trainer.global_step = 45
    setter.on_train_batch_start(trainer, None, None, 5)
    whole, part = trainer.optimizers[0].param_groups
    assert whole["lr"] == setter.schedules.lr(45) and part["lr"] == pytest.approx(0.1 * whole["lr"])
    assert whole["weight_decay"] == pytest.approx(0.3) and part["weight_decay"] == 0


def test_windows_of_an_epoch() -> None:
    assert [window(trainer_of(10, 4), batch) for batch in range(10)] == [4] * 8 + [2] * 2


def test_milestones_fall_where_the_engine_steps() -> None:
    """10 images, batch 2, accumulate 4: five batches are two steps an epoch, the second of one batch."""
    config = OptimizationConfig(epochs=4, accumulate=4, schedule="step", milestones=(2,), warmup_epochs=0)
    setter = SetSchedules(config)
    setter.on_train_start(trainer_of(5, 4), None)
    rates = [setter.schedules.lr(step) for step in range(8)]
    assert rates[:4] == [rates[0]] * 4 and rates[4:] == [rates[0] * 0.1] * 4


def test_a_warmup_longer_than_the_run_is_refused() -> None:
    config = OptimizationConfig(epochs=2, warmup_epochs=0, warmup_steps=14)
    with pytest.raises(UserError, match="warmup_steps 14 must be below the 14 steps of the run"):
        SetSchedules(config).on_train_start(trainer_of(7, 1), None)


@pytest.mark.slow
def test_an_epoch_of_warm_up_is_not_lost(tmp_path: Path) -> None:
    """By the step the first epoch learns; by the epoch, as DeiT's loop has it, it goes by at the least rate."""
    accuracy = {}
    for by in ("step", "epoch"):
        options = {"epochs": 2, "warmup_epochs": 1, "schedule_by": by}
        words = [word for key, value in options.items() for word in (f"--optimization.{key}", str(value))]
        main(["fit", "-c", "digits", *words, "--run.folder", str(tmp_path / by), "--run.loggers", "[]"])
        accuracy[by] = read_metrics(tmp_path / by)["accuracy"][0][1]
    assert accuracy["epoch"] < 0.2 < accuracy["step"]
