"""What is set anew at every step: the learning rate (cosine or steps, after a warm-up) and the weight decay.

All are functions of the steps taken alone, so that there is no state to lose. DeiT's cosine is timm's
(https://github.com/facebookresearch/deit/blob/main/main.py), DINO's that of its `utils.cosine_scheduler`
(https://github.com/facebookresearch/dino/blob/main/utils.py).
"""

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from contagg.errors import UserError, plural
from contagg.training.config import OptimizationConfig


def cosine(done: float, whole: float, start: float, end: float) -> float:
    """From `start` to `end` along half a wave, of which `done` of `whole` is over."""
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * min(done, whole) / whole))


def steps_per_epoch(trainer: Trainer) -> int:
    """Optimizer steps of an epoch; the last takes what batches are left."""
    return math.ceil(int(trainer.num_training_batches) / trainer.accumulate_grad_batches)


def window(trainer: Trainer, batch_idx: int) -> int:
    """Batches whose gradients the step takes that batch `batch_idx` belongs to: fewer at the end of an epoch."""
    first = batch_idx - batch_idx % trainer.accumulate_grad_batches
    return min(trainer.accumulate_grad_batches, int(trainer.num_training_batches) - first)


@dataclass(frozen=True, kw_only=True)
class Schedules:
    """The rates of a run of so many steps per epoch.

    Examples:
        >>> config = OptimizationConfig(epochs=4, lr=0.1, lr_batch_size=None, warmup_epochs=1, warmup_lr=0.0)
        >>> rates = Schedules(config=config, peak_lr=0.1, steps_per_epoch=2)
        >>> [round(rates.lr(step), 3) for step in range(8)]
        [0.0, 0.05, 0.085, 0.069, 0.05, 0.031, 0.015, 0.004]
    """

    config: OptimizationConfig
    peak_lr: float
    steps_per_epoch: int

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.config.epochs * self.steps_per_epoch

    @property
    def warmup_steps(self) -> int:
        """Of the warm-up."""
        given = self.config.warmup_steps
        return round(self.config.warmup_epochs * self.steps_per_epoch) if given is None else given

    def lr(self, taken: int) -> float:
        """The learning rate of the step that follows `taken` steps, for groups of lr_scale 1."""
        config, warmup = self.config, self.warmup_steps
        if config.schedule == "step":
            milestones = [round(epoch * self.steps_per_epoch) for epoch in config.milestones]
            return config.gamma ** bisect_right(milestones, taken) * self._warm(taken, warmup)
        if config.schedule_by == "epoch":
            # DeiT's loop sets the rate of epoch e + 1 by scheduler.step(e), and begins with that of scheduler.step(0).
            epoch = max(taken // self.steps_per_epoch - 1, 0)
            if epoch < config.warmup_epochs:
                return self._warm(epoch, config.warmup_epochs)
            return cosine(epoch, config.epochs, self.peak_lr, config.min_lr)
        if taken < warmup:
            return self._warm(taken, max(warmup - 1, 1) if config.warmup_prefix else warmup)
        begin = warmup if config.warmup_prefix else 0
        return cosine(taken - begin, max(self.steps - begin, 1), self.peak_lr, config.min_lr)

    def weight_decay(self, taken: int) -> float:
        """Likewise the weight decay, of groups that have any."""
        config = self.config
        if config.weight_decay_end is None:
            return config.weight_decay
        return cosine(taken, self.steps, config.weight_decay, config.weight_decay_end)

    def _warm(self, done: float, whole: float) -> float:
        if done >= whole:
            return self.peak_lr
        return self.config.warmup_lr + done * ((self.peak_lr - self.config.warmup_lr) / whole)


class SetSchedules(Callback):
    """Sets rate and weight decay of the optimizer's groups before every step.

    Where the rate goes by the images of a step (Eq. 9), the last step of an epoch, which may take fewer batches than
    `accumulate`, has the smaller rate that goes with them.
    """

    def __init__(self, config: OptimizationConfig) -> None:
        self.config = config
        self.schedules: Schedules | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the steps. UserError for a warm-up that is longer than the run."""
        self.schedules = schedules = schedules_of(self.config, trainer)
        if schedules.warmup_steps >= schedules.steps:
            raise UserError(
                f"optimization.warmup_steps {schedules.warmup_steps} must be below the "
                f"{plural(schedules.steps, 'step')} of the "
                "run"
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the values of this step."""
        assert self.schedules is not None
        lr = self.schedules.lr(trainer.global_step)
        if self.config.lr_batch_size is not None:
            lr *= window(trainer, batch_idx) / trainer.accumulate_grad_batches
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = lr * group["lr_scale"]
            if group["weight_decay"]:
                group["weight_decay"] = self.schedules.weight_decay(trainer.global_step)


def schedules_of(config: OptimizationConfig, trainer: Trainer) -> Schedules:
    """Those of the run that `trainer` is about to make."""
    return Schedules(
        config=config, peak_lr=config.peak_lr(trainer.world_size), steps_per_epoch=steps_per_epoch(trainer)
    )
