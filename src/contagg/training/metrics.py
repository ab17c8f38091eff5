"""The numbers of a run, one row per epoch: in `metrics.csv` and for Lightning's loggers."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from contagg.errors import UserError
from contagg.training.guards import StepGuard, at_step_end
from contagg.training.rows import METRICS, Row, write_rows


class EpochMetrics(Callback):
    """Means of the training losses over whole epochs, and what validation logged.

    `rows` and the sums of the epoch under way are part of the training state: a run that went on has neither lost nor
    doubled rows.

    Args:
        folder: The run folder.
        guard: Where the losses of a batch come from; must precede this in the list of callbacks.
        log_every: Steps between entries of the loggers.
        loggers: Lightning's, which are told each epoch's row and, now and then, a step's losses.
    """

    def __init__(self, folder: Path, guard: StepGuard, log_every: int, loggers: Sequence[Logger] = ()) -> None:
        self.folder, self.guard, self.log_every, self.loggers = folder, guard, log_every, list(loggers)
        self.rows: list[Row] = []
        self._sums: dict[str, float] = {}
        self._batches = 0
        self.suffix = ""
        """Of the names of what validation logs now."""
        self._validation: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        """Rows and sums."""
        return {"rows": self.rows, "sums": self._sums, "batches": self._batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take rows and sums back."""
        self.rows = [dict(row) for row in state_dict["rows"]]
        self._sums, self._batches = dict(state_dict["sums"]), state_dict["batches"]

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
        write_rows(self.folder / METRICS, self.rows)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the loggers."""
        for logger in self.loggers:
            with contextlib.suppress(OSError):  # a full disk
                logger.finalize("success")

    def _log(self, values: dict[str, float], step: int) -> None:
        for logger in list(self.loggers):
            try:
                logger.log_metrics(values, step)
            except OSError as error:
                name = type(logger).__name__
                print(f"warning: {name} takes no more entries: {error.strerror or error}", flush=True)
                self.loggers.remove(logger)


def make_loggers(names: Sequence[str], folder: Path, step: int) -> list[Logger]:
    """Lightning's loggers by their names in a recipe, writing below the run folder.

    Args:
        step: The step that training goes on from; TensorBoard's entries beyond it are void.

    Raises:
        UserError: one needs a package that is not installed.
    """
    run = folder.resolve().name
    known: dict[str, Callable[[], Logger]] = {
        "csv": lambda: CSVLogger(folder, name="csv", version=""),
        "tensorboard": lambda: TensorBoardLogger(folder, name="tensorboard", version="", purge_step=step + 1),
        "wandb": lambda: WandbLogger(project="contagg", name=run, save_dir=folder, id=run, resume="allow"),
        "mlflow": lambda: MLFlowLogger(
            "contagg",
            run_name=run,
            tracking_uri=f"sqlite:///{folder.resolve() / 'mlflow.db'}",  # mlflow 3 refuses plain files
            artifact_location=(folder.resolve() / "mlruns").as_uri(),
        ),
    }
    loggers = []
    for name in names:
        try:
            loggers.append(known[name]())
        except ImportError as error:
            raise UserError(
                f"run.loggers: {name} needs a package that is not installed: pip install 'contagg[loggers]', or {name}"
            ) from error
    return loggers
