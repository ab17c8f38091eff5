"""How far a run is: a bar with the time left on a terminal, and one line per epoch everywhere."""

import sys
import time
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar

from contagg.errors import plural
from contagg.output import duration
from contagg.training.metrics import EpochMetrics
from contagg.training.optimizer import describe_groups


class Progress(TQDMProgressBar):
    """Lightning's bar over an epoch with the time left for the whole run, and a line for each epoch.

    Args:
        metrics: Where the numbers come from; must precede this in the list of callbacks.
    """

    def __init__(self, metrics: EpochMetrics) -> None:
        super().__init__(refresh_rate=1 if sys.stdout.isatty() else 0)
        self.metrics = metrics
        self._began = (0.0, 0.0)
        self._done = 0.0

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        """Say what is about to be done, and take the time."""
        super().on_train_start()
        if trainer.is_global_zero:
            batches = plural(trainer.num_training_batches, "batch", "batches")
            epochs = f"{plural(trainer.max_epochs or 0, 'epoch')} of {batches}"
            print(f"{epochs}; {describe_groups(trainer.optimizers[0])}", flush=True)
        self._began = (time.monotonic(), self.metrics.fraction_done(trainer))

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What stands at the bar's end."""
        losses = {name: f"{value:.3f}" for name, value in self.metrics.guard.losses.items()}
        return losses | {"left": self.left(trainer)}

    def left(self, trainer: Trainer) -> str:
        """The time left, from the pace of this process."""
        began, done_before = self._began
        done = self.metrics.fraction_done(trainer)
        if done <= done_before:
            return "?"
        return duration((time.monotonic() - began) / (done - done_before) * (1 - done))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's line."""
        super().on_train_epoch_end(trainer, pl_module)
        if not trainer.is_global_zero:
            return
        row = self.metrics.rows[-1]
        # A category's number (box_ap/cat) is one of many: metrics.csv has them.
        shown = {name: value for name, value in row.items() if isinstance(value, float) and "/" not in name}
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
        line = f"epoch {row['epoch']}/{trainer.max_epochs}  {numbers}  left {self.left(trainer)}"
        if self.is_enabled:
            self.print(line)
        else:
            print(line, flush=True)
