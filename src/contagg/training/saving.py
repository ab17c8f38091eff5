"""When the training state and the weights to use are saved, how many are kept, and what a failed save does."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor

from contagg.checkpoints.weights import save_weights
from contagg.data.fingerprint import Fingerprint
from contagg.device import require_finite
from contagg.errors import UserError
from contagg.training.checkpoint import AtomicCheckpointIO, checkpoint_name, checkpoints
from contagg.training.guards import StepGuard, at_step_end
from contagg.training.metrics import EpochMetrics
from contagg.training.run_folder import RAW, RunFolder
from contagg.training.signals import StoppedError

FAILURES_ALLOWED = 3
"""Saves that may fail one after the other before training stops."""


@dataclass
class KeptWeights:
    """The weights files of a run: of the last epoch, of the best, and of some of the best.

    With a moving average `last` and `best` hold it, `last_raw` and `best_raw` the weights that it is of, each the best
    by its own column of the metrics.

    Attributes:
        monitor: The column of the metrics to be best in; the larger, the better.
        prefix: Of the names in a training state of what is written.
        metadata: What the files say of themselves, beside epoch and metrics.
        lost_epochs: Those whose weights no disk took. None of them is the best: there would be nothing to use.
        first_epoch: The epochs before it, 1 first, are not the best either: their network was another.
    """

    folder: Path
    metrics: EpochMetrics
    monitor: str
    prefix: str
    metadata: Mapping[str, Any]
    keep_best: int
    lost_epochs: list[int] = field(default_factory=list)
    first_epoch: int = 1

    def write(self, checkpoint: Mapping[str, Any]) -> None:
        """Weights and metrics of an epoch, given the training state about to be written. Raises OSError."""
        try:
            self.metrics.write()
            if "current_model_state" in checkpoint:  # then Lightning's averaging put the average under "state_dict"
                self._write(checkpoint["current_model_state"], RAW)
            self._write(checkpoint["state_dict"], "")
        except OSError:
            self.lost_epochs.append(int(self.metrics.rows[-1]["epoch"]))
            raise

    def _write(self, whole: Mapping[str, Tensor], suffix: str) -> None:
        row, monitor = self.metrics.rows[-1], self.monitor + suffix
        state = {name.removeprefix(self.prefix): value for name, value in whole.items() if name.startswith(self.prefix)}
        metadata = {**self.metadata, "epoch": row["epoch"], "metrics": row}
        left_out = {*self.lost_epochs, *range(1, self.first_epoch)}
        validated = [r for r in self.metrics.rows if monitor in r and r["epoch"] not in left_out]
        ranked = sorted(validated, key=lambda row: (-row[monitor], row["epoch"]))
        save_weights(self.folder / f"last{suffix}.safetensors", state, metadata)
        if ranked and ranked[0] is row:
            save_weights(self.folder / f"best{suffix}.safetensors", state, metadata)
        best = ranked[: self.keep_best] if self.keep_best > 1 else []
        kept = [f"best{suffix}_epoch_{int(r['epoch']):05d}.safetensors" for r in best]
        if row in best:
            save_weights(self.folder / kept[best.index(row)], state, metadata)
        for path in self.folder.glob(f"best{suffix}_epoch_*.safetensors"):
            if path.name not in kept:
                path.unlink(missing_ok=True)


class SaveState(Checkpoint):
    """Saves the training state in time and after each epoch, and then also the weights to use.

    `last.safetensors` and `best.safetensors` hold what validation saw: the moving average where there is one. They are
    written before the training state of their epoch, so that a kill between the two repeats the epoch.

    Args:
        run: Whose recipe must be the same when the run goes on.
        fingerprint: Of the data, which must be the same likewise.
        keep_last: Training states kept.
    """

    def __init__(
        self,
        run: RunFolder,
        writer: AtomicCheckpointIO,
        guard: StepGuard,
        weights: KeptWeights,
        fingerprint: Fingerprint,
        keep_last: int,
    ) -> None:
        self.run, self.folder, self.io, self.guard = run, run.checkpoints, writer, guard
        self.weights, self.fingerprint, self.keep_last = weights, fingerprint, keep_last
        self._data = fingerprint.state_dict()
        self._failures = 0

    def state_dict(self) -> dict[str, Any]:
        """What must be the same when the run goes on, and the epochs whose weights no disk took."""
        return {"recipe": self.run.bound, "data": self._data, "lost_epochs": self.weights.lost_epochs}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """UserError for a training state that does not say of what run: Lightning passes over what is missing."""
        if not {"recipe", "data"} <= checkpoint["callbacks"].get(self.state_key, {}).keys():
            raise UserError(
                f"the training state in {self.folder} does not say which data and recipe it was made with; "
                "remove it, or give run.folder another folder"
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """UserError if the recipe or the data are not the same, which names what differs."""
        self.weights.lost_epochs = list(state_dict["lost_epochs"])
        self.run.refuse_other(state_dict["recipe"])
        difference = self.fingerprint.difference(state_dict["data"])
        if difference:
            raise UserError(
                f"the run in {self.folder.parent} was made with other data: {difference}. Give run.folder another "
                "folder, or the data back"
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time, or if training was asked to stop, in which case StoppedError follows."""
        if not at_step_end(trainer, batch_idx) or batch_idx + 1 == trainer.num_training_batches:
            return  # the end of an epoch is saved after its validation
        if self.guard.save_due or self.guard.stop:
            self._save(trainer, trainer.current_epoch)
        self._stop_if_asked(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the state and the weights to use."""
        self.io.alongside = self.weights.write
        self._save(trainer, trainer.current_epoch + 1)
        self.io.alongside = None
        if trainer.current_epoch + 1 < (trainer.max_epochs or 0):
            self._stop_if_asked(trainer)

    def _save(self, trainer: Trainer, next_epoch: int) -> None:
        _refuse_unsound(trainer)
        path = self.folder / checkpoint_name(next_epoch, trainer.global_step)
        trainer.save_checkpoint(path, weights_only=False)
        failure = self.io.failure
        message = f"could not save {failure.filename or path}: {failure.strerror}" if failure else ""
        message = trainer.strategy.broadcast(message)
        self.guard.saved()
        self._failures = self._failures + 1 if message else 0
        if message:
            self._report_failure(trainer, message, next_epoch)
        elif trainer.is_global_zero:
            for old in checkpoints(self.folder)[: -self.keep_last]:
                old.unlink(missing_ok=True)

    def _report_failure(self, trainer: Trainer, message: str, next_epoch: int) -> None:
        good = checkpoints(self.folder)
        message += f"; the last good one is {good[-1]}" if good else "; there is none before it"
        if self._failures >= FAILURES_ALLOWED or next_epoch == trainer.max_epochs or self.guard.stop:
            raise UserError(f"{message}. Make room and give the same command to go on from there")
        if trainer.is_global_zero:
            print(f"warning: {message}; training goes on", flush=True)

    def _stop_if_asked(self, trainer: Trainer) -> None:
        if self.guard.stop:
            raise StoppedError(
                self.guard.stop,
                f"stopped after step {trainer.global_step} (epoch {trainer.current_epoch + 1}) and saved in "
                f"{self.folder}; give the same command to go on",
            )


def _refuse_unsound(trainer: Trainer) -> None:
    """UserError if a weight, a statistic or a moment of the optimizer is not finite: it must not replace a good one."""
    tensors = dict(trainer.lightning_module.state_dict())
    for optimizer in trainer.optimizers:
        for number, moments in enumerate(optimizer.state.values()):
            tensors |= {f"the optimizer's {name} of tensor {number}": value for name, value in moments.items()}
    try:
        require_finite({name: value for name, value in tensors.items() if isinstance(value, Tensor)}, "the run")
    except UserError as error:
        raise UserError(
            f"{error} after step {trainer.global_step}; nothing was saved since; lower the learning rate or set "
            "optimization.max_grad_norm in a new run.folder"
        ) from error
