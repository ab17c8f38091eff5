"""A run's folder: what lies where, which recipe it belongs to, and that one process at a time trains in it."""

import errno
import fcntl
import math
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import yaml

from contagg.config import as_dict, defaults, flatten, mutable_keys
from contagg.errors import UserError
from contagg.files import write_atomically
from contagg.training.checkpoint import checkpoints, sweep_temporaries
from contagg.training.rows import METRICS
from contagg.yaml_file import read_yaml

_PROCESSES = ("optimization.batch_size", "run.devices", "run.nodes")
_SHOWN = 5

RAW = "_raw"
"""What follows the names of metrics and files of the weights under way, where a moving average has the plain ones."""


class BusyFolderError(UserError):
    """Another process trains in this run folder."""


class RunFolder:
    """Paths below `folder`, which is made where it is missing.

    ```
    recipe.yaml          the whole recipe, defaults included
    metrics.csv          one row per epoch
    tensorboard/
    checkpoints/         epoch_*_step_*.ckpt to go on from, best.safetensors and last.safetensors to use; with
                         optimization.ema_decay these are the average, best_raw and last_raw what it is of
    figures/
    ```
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.recipe = self.folder / "recipe.yaml"
        self.metrics = self.folder / METRICS
        self.checkpoints = self.folder / "checkpoints"
        self.figures = self.folder / "figures"
        self.bound: dict[str, Any] = {}
        """What must be the same when the run goes on: the recipe's dotted keys and values, once it is known."""
        self._lock: IO[str] | None = None

    def claim(self, recipe: Any) -> None:
        """Make the folder this recipe's. To be called by the first process only, before `check` by the others.

        Raises:
            UserError: another process trains in it (BusyFolderError), or it holds a run of another recipe (says what
                differs).
        """
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self.figures.mkdir(exist_ok=True)
            self._take_lock()
            self.check(recipe)
            sweep_temporaries(self.checkpoints)
            sweep_temporaries(self.folder)
            write_atomically(self.recipe, yaml.safe_dump(as_dict(recipe), sort_keys=False).encode())
        except OSError as error:
            raise UserError(f"run.folder {self.folder} cannot be used: {error}") from error

    def check(self, recipe: Any) -> None:
        """UserError if the folder holds a run of another recipe."""
        self.bound = _identity(flatten(as_dict(recipe)))
        for key in mutable_keys(recipe) | {"run.folder"}:
            self.bound.pop(key, None)
        if not self.recipe.exists() or not self._holds_a_run():
            return  # nothing was made, or the recipe lies in the training state alone
        try:
            # A key that came into being after the run began had no other value then than its default.
            before = flatten(defaults(recipe)) | flatten(read_yaml(self.recipe))
        except UserError as error:
            raise UserError(f"{error}. Remove it: training states hold the run's recipe as well") from error
        self.refuse_other(_identity(before), ignored=mutable_keys(recipe) | {"run.folder"})

    def _holds_a_run(self) -> bool:
        """Weights alone are one too: `contagg place --from` trains nothing."""
        weights = next(self.checkpoints.glob("*.safetensors"), None)
        return bool(checkpoints(self.checkpoints) or self.metrics.exists() or weights)

    def refuse_other(self, before: Mapping[str, Any], ignored: Collection[str] = ()) -> None:
        """UserError if the run was made with other values of dotted keys, which names them; see `bound`."""
        changed = [
            f"{key} is {before.get(key, 'absent')} there and {self.bound.get(key, 'absent')} here"
            for key in sorted(before.keys() | self.bound.keys())
            if key not in ignored and before.get(key, "absent") != self.bound.get(key, "absent")
        ]
        if changed:
            more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
            raise UserError(
                f"{self.folder} holds a run of another recipe: {'; '.join(changed[:_SHOWN])}{more}. "
                "Give --run.folder another folder, or remove this one to start again"
            )

    def _take_lock(self) -> None:
        path = self.folder / ".lock"
        if path.exists() and not path.is_file():  # to open a FIFO waits for whoever reads it
            raise UserError(f"{path} is no plain file: remove it, or give --run.folder another folder")
        self._lock = path.open("w")
        try:
            # A record lock, which the processes that read data do not inherit: it dies with this process.
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):  # anything else is a file system without locks
                raise BusyFolderError(
                    f"another process is training in {self.folder}: wait for it, or give --run.folder another folder"
                ) from error


def metrics_told(folder: RunFolder, loggers: Sequence[str]) -> str:
    """Where a finished run's numbers are, by the loggers that had them.

    >>> metrics_told(RunFolder("runs/a"), ["tensorboard"])
    'runs/a/metrics.csv, and in TensorBoard: tensorboard --logdir runs/a'
    >>> metrics_told(RunFolder("runs/a"), [])
    'runs/a/metrics.csv'
    """
    board = f", and in TensorBoard: tensorboard --logdir {folder.folder}" * ("tensorboard" in loggers)
    return f"{folder.metrics}{board}"


def is_first_process() -> bool:
    """Whether this process is alone or the first of those that torchrun, Slurm or Lightning started."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK"))


def _identity(flat: dict[str, Any]) -> dict[str, Any]:
    """A recipe's dotted names and values; how a batch is spread over processes does not count, its size does."""
    flat = dict(flat)
    spread = [flat.get(name) for name in _PROCESSES]
    if all(isinstance(value, int) for value in spread):
        flat["optimization.batch_size over all processes"] = math.prod(flat.pop(name) for name in _PROCESSES)
    return flat
