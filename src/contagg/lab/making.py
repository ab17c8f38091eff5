"""One run of an arm, in a process of its own: paired with the other arms', resumed where it was stopped."""

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

import contagg.models  # noqa: F401  registers the networks in a new process
from contagg.arguments import load
from contagg.benchmark.bench import describe
from contagg.config import as_dict, flatten
from contagg.device import choose_device
from contagg.errors import UserError
from contagg.files import write_atomically
from contagg.lab.arms import Arm, of_seed
from contagg.lab.own_code import own_code
from contagg.lab.rows import Row, RunsFile, columns, digest, summary
from contagg.lab.sizes import network, size
from contagg.tasks import task_named
from contagg.training.checkpoint import checkpoints
from contagg.training.engine import Job, check_machine, claim_folder, train
from contagg.training.run_folder import BusyFolderError, RunFolder
from contagg.training.signals import StoppedError

DONE, BUSY, STOPPED, FAILED = "done", "busy", "stopped", "failed"
"""How a run may end: finished; made by another process; asked to stop, and saved; with an error."""

_OTHER_STARTS = {"model.init_weights", "model.init_ema", "model.pretrained"}
_NOT_OF_DATA = ("model.name", "model.backbone", "model.options.", "model.drop_path", "optimization.", "run.")
"""Keys in which recipes may differ and have the same data."""


@dataclass(frozen=True)
class Run:
    """An arm with a seed.

    Attributes:
        recipe: The comparison's.
        output: The comparison's folder.
    """

    arm: Arm
    seed: int
    recipe: Any
    output: Path

    @property
    def folder(self) -> Path:
        """The run's own."""
        return self.output / "runs" / self.arm.folder / f"seed_{self.seed}"


class Opener:
    """Opens data and makes jobs; recipes that cannot differ in their data share them.

    Args:
        recipe: The comparison's.
        workers: Processes that read data, whatever recipes say; None leaves it to them.

    Raises:
        UserError: the task's runs cannot be compared.
    """

    def __init__(self, recipe: Any, workers: int | None = None) -> None:
        self.task = task_named(recipe.task)
        if not (self.task.open and self.task.job):
            raise UserError(
                f"runs of the task {recipe.task!r} cannot be compared: its contagg.tasks.Task gives no open and no job"
            )
        self.recipe, self.workers = recipe, workers
        self._opened: dict[str, Any] = {}

    def job(self, recipe: Any) -> Job:
        """What `contagg fit` would train with this recipe. UserError as of `fit`."""
        if self.workers is not None:
            recipe = replace(recipe, run=replace(recipe.run, workers=self.workers))
        flat = flatten(as_dict(recipe))
        which = json.dumps({key: value for key, value in flat.items() if not key.startswith(_NOT_OF_DATA)})
        torch.manual_seed(recipe.run.seed)
        if which not in self._opened:
            self._opened[which] = load(self.task.open)(recipe)
        torch.manual_seed(recipe.run.seed)
        return load(self.task.job)(recipe, self._opened[which])


@torch.no_grad()
def start_alike(job: Job, reference: Job) -> tuple[int, int]:
    """Give each parameter the value of the reference's of its name and shape; returns how many of how many had one.

    So networks that share a part start with the same numbers in it, and their runs differ by less than two seeds do.
    """
    known = dict(reference.task.named_parameters())
    own = dict(job.task.named_parameters())
    shared = [name for name, parameter in own.items() if name in known and known[name].shape == parameter.shape]
    for name in shared:
        own[name].copy_(known[name])
    return len(shared), len(own)


def paired_job(run: Run) -> tuple[Job, tuple[int, int]]:
    """The run's job, started as the recipe's own network with this seed would start, and `start_alike`'s counts."""
    opener = Opener(of_seed(run.recipe, run.seed, run.folder))
    job = opener.job(run.arm.of_seed(run.seed, run.folder))
    if _OTHER_STARTS & run.arm.changes.keys():
        return job, (0, len(list(job.task.parameters())))
    return job, start_alike(job, opener.job(opener.recipe))


def make(run: Run) -> Row:
    """Train a run, or go on with it, and add its row to the comparison's file.

    Raises:
        UserError, StoppedError: as `contagg.training.engine.train`; BusyFolderError where another process makes it.
    """
    recipe = run.arm.of_seed(run.seed, run.folder)
    check_machine(recipe.run)
    job, (paired, tensors) = paired_job(run)
    folder, code = claim_folder(recipe.run, recipe), own_code(network(job))
    resumed = bool(checkpoints(folder.checkpoints))
    _check_code(folder, code, resumed)
    sizes = asdict(size(job))
    began, cpu_began = time.monotonic(), time.process_time()
    metrics = columns(train(job, recipe.run, folder))
    data = summary(job.fingerprint)
    row: Row = {
        "arm": run.arm.name,
        "seed": run.seed,
        "changes": dict(run.arm.changes),
        "data": digest(data),
        "own_code": code,
        "metrics": metrics,
        "monitor": job.monitor,
        # Of a run that went on it is not known how long its first part took.
        "seconds": None if resumed else round(time.monotonic() - began, 1),
        "cpu_seconds": None if resumed else round(time.process_time() - cpu_began, 1),
        **sizes,
        "tensors": tensors,
        "paired_tensors": paired,
        **_machine(recipe),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    RunsFile(run.output, run.recipe).add(row, data)
    for state in checkpoints(folder.checkpoints):
        state.unlink(missing_ok=True)  # last.safetensors and best.safetensors stay
    return row


def _check_code(folder: RunFolder, code: Mapping[str, str], resumed: bool) -> None:
    """UserError where a run that goes on was begun with other code of its mixers."""
    path, now = folder.folder / "own_code.json", json.dumps(code, sort_keys=True)
    if resumed and path.exists() and path.read_text() != now:
        raise UserError(f"{folder.folder} was begun with other code of its mixers: remove it, or give -o FOLDER")
    if code:
        write_atomically(path, now.encode())


def _machine(recipe: Any) -> Mapping[str, Any]:
    """Device, threads, commit and torch's version."""
    about = describe(choose_device("cpu" if recipe.run.accelerator == "cpu" else "auto"))
    return {key: about[key] for key in ("device", "threads", "commit", "torch")}


def in_process(run: Run, log: Path, answer: Connection) -> None:
    """`make` as the whole of a process: prints into `log`, and answers with how it ended and a line."""
    os.setsid()  # Ctrl-C of a terminal is for the command, which asks once; a second request would end this at once
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        opened = log.open("a", buffering=1)
    except OSError as error:
        answer.send((FAILED, f"{error.filename} cannot be written: {error.strerror}"))
        return
    with opened as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = file
        threading.Thread(target=_stop_with_parent, daemon=True).start()
        torch.set_num_threads(1)
        try:
            make(run)
            answer.send((DONE, ""))
        except BusyFolderError as error:
            answer.send((BUSY, str(error)))
        except (StoppedError, KeyboardInterrupt) as error:
            answer.send((STOPPED, str(error)))
        except UserError as error:
            print(f"error: {error}")
            answer.send((FAILED, str(error)))
        except Exception as error:
            traceback.print_exc()
            answer.send((FAILED, f"{type(error).__name__}: {error}"))


def _stop_with_parent() -> None:
    """Ask this process to save and stop once the one that started it is gone, however that ended."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def finished_epochs(run: Run) -> int:
    """How many epochs the run's folder has rows of."""
    return max(len(_metrics(run)) - 1, 0)


def metric_names(run: Run) -> list[str]:
    """Of what the run's folder has by now."""
    return next((line.split(",") for line in _metrics(run)), [])


def _metrics(run: Run) -> list[str]:
    try:
        return RunFolder(run.folder).metrics.read_text().splitlines()
    except OSError:
        return []
