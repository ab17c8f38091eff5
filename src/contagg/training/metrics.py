"""The numbers of a run, one row an epoch: in `metrics.csv` and for TensorBoard."""

import contextlib
import csv
import io
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch.utils.tensorboard import SummaryWriter

from contagg.files import write_atomically
from contagg.training.guards import StepGuard, at_step_end

Row = dict[str, float | int]


class EpochMetrics(Callback):
    """Means of the training losses over whole epochs, and what validation logged.

    `rows` and the sums of the epoch under way are part of the training state: a run that went on has neither lost nor
    doubled rows.

    Args:
        folder: The run folder.
        guard: Where the losses of a batch come from; must precede this in the list of callbacks.
        log_every: Steps between TensorBoard entries.
    """

    def __init__(self, folder: Path, guard: StepGuard, log_every: int) -> None:
        self.folder, self.guard, self.log_every = folder, guard, log_every
        self.rows: list[Row] = []
        self._sums: dict[str, float] = {}
        self._batches = 0
        self.suffix = ""
        """Of the names of what validation logs now."""
        self._validation: dict[str, float] = {}
        self._writer: SummaryWriter | None = None

    def state_dict(self) -> dict[str, Any]:
        """Rows and sums."""
        return {"rows": self.rows, "sums": self._sums, "batches": self._batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take rows and sums back."""
        self.rows = [dict(row) for row in state_dict["rows"]]
        self._sums, self._batches = dict(state_dict["sums"]), state_dict["batches"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open TensorBoard's file; entries past the step that training goes on from are void."""
        if trainer.is_global_zero:
            self._writer = SummaryWriter(self.folder / "tensorboard", purge_step=trainer.global_step + 1)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the batch's losses."""
        for name, value in self.guard.losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._batches += 1
        if at_step_end(trainer, batch_idx) and trainer.global_step % self.log_every == 0:
            self._log({f"step/{name}": value for name, value in self.guard.losses.items()}, trainer.global_step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what validation logged."""
        self._validation |= {name + self.suffix: float(value) for name, value in trainer.callback_metrics.items()}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the row of this epoch."""
        row: Row = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "learning_rate": self.guard.learning_rate,
        }
        row |= {f"train_{name}": total / self._batches for name, total in self._sums.items()}
        row |= self._validation
        self.rows.append(row)
        self._sums, self._batches, self._validation = {}, 0, {}
        self._log({f"epoch/{name}": value for name, value in row.items()}, trainer.global_step)

    def fraction_done(self, trainer: Trainer) -> float:
        """How much of the run is done, 0 to 1."""
        epochs = len(self.rows) + self._batches / max(int(trainer.num_training_batches), 1)
        return epochs / max(trainer.max_epochs or 1, 1)

    def write(self) -> None:
        """Write `metrics.csv` anew. Raises OSError."""
        write_rows(self.folder / "metrics.csv", self.rows)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close TensorBoard's file."""
        if self._writer is not None:
            with contextlib.suppress(OSError):  # a full disk
                self._writer.close()

    def _log(self, values: dict[str, float], step: int) -> None:
        if self._writer is None:
            return
        try:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
        except OSError as error:
            print(f"warning: TensorBoard's file takes no more entries: {error.strerror or error}", flush=True)
            self._writer = None


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write rows as CSV; columns in the order in which they first appear."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())
