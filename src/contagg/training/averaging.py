"""A moving average of the weights (EMA), validated and saved beside the weights that train."""

from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from timm.utils import distribute_bn
from torch import Tensor

from contagg.training.metrics import EpochMetrics
from contagg.training.run_folder import RAW


class MovingAverage(WeightAveraging):
    """timm's ModelEmaV3 with `use_warmup`, over parameters and buffers: the decay rises to its value.

    After n updates it is min(decay, 1 - (n + 1)^(-2/3)): in a short run the first weights would else stay most of the
    average. Each validation is made twice, first of the weights under way, whose metrics end in `_raw`.

    Args:
        decay: What is kept of the average at each step, once it has risen.
        metrics: Where validation's numbers go.
    """

    def __init__(self, decay: float, metrics: EpochMetrics) -> None:
        super().__init__(multi_avg_fn=self._update)
        self.decay, self.metrics = decay, metrics
        self._step = 0

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """After every step."""
        if step_idx is not None:
            self._step = step_idx
        return step_idx is not None

    @property
    def average(self) -> LightningModule:
        """The task with the average as its weights; what changes the network in a run changes this one alike."""
        assert self._average_model is not None
        return self._average_model.module  # type: ignore[return-value]

    def decay_at(self, step: int) -> float:
        """Of the update after step number `step`, 0 first, which takes the weights as they are."""
        return min(self.decay, 1 - (1 + step) ** (-2 / 3))

    @torch.no_grad()
    def _update(self, averages: Any, currents: Any, updates: Tensor) -> None:
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, currents, 1 - self.decay_at(self._step))
        else:
            torch._foreach_copy_(averages, currents)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make validation two validations."""
        loop = trainer.fit_loop.epoch_loop.val_loop
        validate = loop.run

        def both() -> Any:
            self.metrics.suffix = RAW
            validate()
            self.metrics.suffix = ""
            return validate()

        loop.run = both  # type: ignore[method-assign]

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the average in the place of the weights, unless those are looked at.

        Its BatchNorm statistics are of what each process saw; all validate the first's, which are those saved.
        DistributedDataParallel sees to that for the weights under way alone.
        """
        if self.metrics.suffix:
            return
        super().on_validation_epoch_start(trainer, pl_module)
        if trainer.world_size > 1:
            distribute_bn(pl_module, trainer.world_size, reduce=False)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """And back."""
        if not self.metrics.suffix:
            super().on_validation_epoch_end(trainer, pl_module)
