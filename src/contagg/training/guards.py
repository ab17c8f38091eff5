"""What is looked at around every step, by all processes together: randomness, losses, and whether to save or stop."""

import math
import time
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from contagg.data.sampling import seed_step
from contagg.errors import UserError
from contagg.training.signals import StopSignals


def at_step_end(trainer: Trainer, batch_idx: int) -> bool:
    """Whether an optimizer step followed this batch: gradients under way are part of no saved state."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or batch_idx + 1 == trainer.num_training_batches


class SeedSteps(Callback):
    """Makes what a step draws (mixup, stochastic depth) a function of seed, epoch, batch and process."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Reseed before the step."""
        seed_step(self.seed, trainer.current_epoch, batch_idx, trainer.global_rank)


class StepGuard(Callback):
    """After each batch one sum over all processes says the mean losses, and whether to stop or to save.

    `losses` holds the batch's mean of each scalar that `training_step` returned. All processes raise together when a
    loss is not finite in one of them.

    Args:
        signals: What asks to stop.
        save_seconds: Longest time without a saved state, measured on the first process.
    """

    def __init__(self, signals: StopSignals, save_seconds: float) -> None:
        self.signals, self.save_seconds = signals, save_seconds
        self.losses: dict[str, float] = {}
        self.learning_rate = 0.0
        self.stop = 0
        self.save_due = False
        self._saved_at = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals that Lightning has just taken."""
        self.signals.install()
        self._saved_at = time.monotonic()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note the rate of this step: at its end the next one's may be set."""
        self.learning_rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Agree; raise UserError in all processes for a loss that is not finite."""
        losses = {name: float(value) for name, value in outputs.items()}
        losses["loss"] *= trainer.accumulate_grad_batches  # Lightning divides it
        totals = self._agree(trainer, list(losses.values()))
        self.losses = {name: total / trainer.world_size for name, total in zip(losses, totals, strict=True)}
        for name, value in self.losses.items():
            if not math.isfinite(value):
                raise UserError(
                    f"{name} became {value} at epoch {trainer.current_epoch + 1}, batch {batch_idx + 1}, step "
                    f"{trainer.global_step}, learning rate {self.learning_rate:.3g}; nothing was saved since; "
                    "lower the learning rate or set optimization.max_grad_norm in a new run.folder"
                )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Agree again: validation takes its time."""
        self._agree(trainer, [])

    def saved(self) -> None:
        """Count the time to the next save from now."""
        self._saved_at = time.monotonic()

    def _agree(self, trainer: Trainer, values: list[float]) -> list[float]:
        """Sums over the processes of `values`; sets `stop` and `save_due` alike in all of them."""
        due = trainer.is_global_zero and time.monotonic() - self._saved_at >= self.save_seconds
        sums = [*values, float(self.signals.received), float(due)]
        if trainer.world_size > 1:
            summed = torch.tensor(sums, dtype=torch.float64, device=trainer.strategy.root_device)
            sums = trainer.strategy.reduce(summed, reduce_op="sum").tolist()
        *totals, stop, save = sums
        self.stop, self.save_due = int(stop > 0) and (self.signals.received or 15), save > 0
        return totals


class CountSamples(Callback):
    """Has it told where a stream holds more than its split says: each process alone knows but of its own part."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at what was trained on."""
        _sum_samples(trainer, trainer.train_dataloader)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at what was validated on."""
        _sum_samples(trainer, trainer.val_dataloaders)


def _sum_samples(trainer: Trainer, loaders: Any) -> None:
    for loader in loaders if isinstance(loaders, list) else [loaders]:
        counts = getattr(loader, "stream_counts", None)
        if counts is None or trainer.world_size == 1:
            continue  # one process looks at each batch
        read = torch.tensor(float(counts.samples), dtype=torch.float64, device=trainer.strategy.root_device)
        total = trainer.strategy.reduce(read, reduce_op="sum")
        if trainer.is_global_zero:
            counts.tell_surplus(int(total), len(loader.dataset.stream))
