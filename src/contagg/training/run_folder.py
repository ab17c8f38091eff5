"""A run's folder: what lies where, which recipe it belongs to, and that one process at a time trains in it."""

import errno
import fcntl
import os
from pathlib import Path
from typing import IO, Any

import yaml

from contagg.checkpoints.locate import weights_in as weights_in
from contagg.config import as_dict, defaults, mutable_keys
from contagg.errors import UserError
from contagg.files import write_atomically
from contagg.training.checkpoint import checkpoints, sweep_temporaries

_PROCESSES = ("optimization.batch_size", "run.devices", "run.nodes")
_SHOWN = 5


class RunFolder:
    """Paths below `folder`, which is made where it is missing.

    ```
    recipe.yaml          the whole recipe, defaults included
    metrics.csv          a row an epoch
    tensorboard/
    checkpoints/         epoch_*_step_*.ckpt to go on from, best.safetensors and last.safetensors to use
    figures/
    ```
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.recipe = self.folder / "recipe.yaml"
        self.metrics = self.folder / "metrics.csv"
        self.checkpoints = self.folder / "checkpoints"
        self.figures = self.folder / "figures"
        self._lock: IO[str] | None = None

    def claim(self, recipe: Any) -> None:
        """Make the folder this recipe's. To be called by the first process only, before `check` by the others.

        Raises:
            UserError: another process trains in it, or it holds a run of another recipe (says what differs).
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
        if not self.recipe.exists() or not (checkpoints(self.checkpoints) or self.metrics.exists()):
            return  # nothing was trained: whatever was asked for before does not bind
        try:
            # A key that came into being after the run began had no other value then than its default.
            before = _identity(_flatten(defaults(recipe)) | _flatten(yaml.safe_load(self.recipe.read_text())))
        except (yaml.YAMLError, AttributeError, TypeError) as error:
            raise UserError(f"{self.recipe} is not a recipe: {' '.join(str(error).split())}") from error
        now = _identity(_flatten(as_dict(recipe)))
        free = mutable_keys(recipe) | {"run.folder"}
        changed = [
            f"{key} is {before.get(key, 'absent')} there and {now.get(key, 'absent')} here"
            for key in sorted(before.keys() | now.keys())
            if key not in free and before.get(key, "absent") != now.get(key, "absent")
        ]
        if changed:
            more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
            raise UserError(
                f"{self.folder} holds a run of another recipe: {'; '.join(changed[:_SHOWN])}{more}. "
                "Give --run.folder another folder, or remove this one to start again"
            )

    def _take_lock(self) -> None:
        self._lock = (self.folder / ".lock").open("w")
        try:
            # A record lock, which the processes that read data do not inherit: it dies with this process.
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):  # anything else is a file system without locks
                raise UserError(
                    f"another process is training in {self.folder}: wait for it, or give --run.folder another folder"
                ) from error


def is_first_process() -> bool:
    """Whether this process is alone or the first of those that torchrun, Slurm or Lightning started."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK"))


def _identity(flat: dict[str, Any]) -> dict[str, Any]:
    """A recipe's dotted names and values; how a batch is spread over processes does not count, its size does."""
    flat = dict(flat)
    spread = [flat.pop(name) for name in _PROCESSES if name in flat]
    if len(spread) == len(_PROCESSES):
        batch, devices, nodes = spread
        flat["optimization.batch_size over all processes"] = batch * devices * nodes
    return flat


def _flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
