"""Runs of `contagg fit` in processes that may be killed."""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from matplotlib.figure import Figure

from contagg.classification import fit
from contagg.cli import main
from contagg.data.config import DataConfig
from contagg.data.sources import ImageData, open_data

TINY = {
    "task": "classification",
    "model": {
        "name": "container_light_tiny",
        "image_size": 16,
        "channels": 1,
        "options": {"embed_dims": [8, 8, 16, 32], "patch_sizes": [2, 2, 2, 2], "depths": [1, 1, 1, 1]},
    },
    "data": {"name": "digits", "fraction": 0.07},
    "augmentation": {"crop": "resized", "auto_augment": "rand-m9-mstd0.5-inc1"},
    "optimization": {"epochs": 3, "warmup_epochs": 1, "batch_size": 14, "lr": 0.003, "lr_batch_size": None},
    "run": {"workers": 0, "accelerator": "cpu", "checkpoint_minutes": 0, "keep_last": 3},
}
"""Seven batches an epoch of 100 images, everything random turned on; a state is saved after every step."""


PATIENCE = 600
"""Seconds, on a busy machine."""


def never() -> bool:
    return False


class Runs:
    """Calls `contagg fit`, or another command that trains, in forked processes; `meddle` runs in one of them first."""

    def __init__(self, folder: Path, recipe: dict = TINY, command: str = "fit") -> None:
        self.folder, self.command = folder, command
        self.recipe = folder / "recipe.yaml"
        self.recipe.write_text(yaml.safe_dump(recipe))
        self.output = ""

    def fit(
        self,
        name: str,
        *options: str,
        meddle: Callable[[], None] = lambda: None,
        kill_when: Callable[[], bool] = never,
        ranks: int = 1,
        victim: int = 0,
    ) -> int:
        """The exit code of rank `victim`, the one that is meddled with and killed; negative is a signal.

        The other ranks are then asked to stop and after a while killed, as torchrun does. What all printed is in
        `output`.
        """
        arguments = [self.command, "-c", str(self.recipe), "--run.folder", str(self.folder / name), *options]
        printed = [self.folder / f"printed_{rank}.txt" for rank in range(ranks)]
        arguments += ["--run.devices", str(ranks)] if ranks > 1 else []
        environments: list[dict[str, str]] = [{}] if ranks == 1 else _environments(ranks)
        processes = []
        for rank, environment in enumerate(environments):
            own = meddle if rank == victim else lambda: None
            words = (arguments, printed[rank], own, environment)
            processes.append(multiprocessing.get_context("fork").Process(target=_child, args=words))
        for process in processes:
            process.start()
        began, late, process = time.monotonic(), False, processes[victim]
        while process.is_alive() and not (late := time.monotonic() - began > PATIENCE) and not kill_when():
            process.join(0.01)
        if process.is_alive():
            process.kill()
            process.join()
        for other in processes:
            _end(other, ask=process.exitcode != 0)
        self.output = "".join(path.read_text() for path in printed if path.exists())
        if late:
            pytest.fail(f"no end after {PATIENCE} s: {self.output}")
        assert process.exitcode is not None
        return process.exitcode

    def state(self, name: str) -> dict:
        """The newest training state."""
        return torch.load(max((self.folder / name / "checkpoints").glob("*.ckpt")), weights_only=True)


def _environments(ranks: int) -> list[dict[str, str]]:
    """What torchrun would tell each rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def _end(process: multiprocessing.process.BaseProcess, ask: bool) -> None:
    if ask and process.is_alive():
        os.kill(process.pid or 0, signal.SIGTERM)
        process.join(5)
    else:
        process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()


def _child(arguments: list[str], printed: Path, meddle: Callable[[], None], environment: dict[str, str]) -> None:
    os.environ.update(environment)
    with printed.open("w", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = file, file
        signal.signal(signal.SIGINT, signal.default_int_handler)
        fit.open_data = _few_held_out
        Figure.savefig = _without_ink
        meddle()
        main(arguments)


_savefig = Figure.savefig


def _without_ink(self: Figure, *_: object, **__: object) -> None:
    """Nothing is drawn, which would take a third of a run: tests that look at pictures meddle with `with_ink`."""


def with_ink() -> None:
    Figure.savefig = _savefig


def _few_held_out(config: DataConfig) -> ImageData:
    """The run's images, with 23 to validate on: enough here."""
    data = open_data(config)
    return replace(data, validation=data.validation.subset(np.arange(23)))


def differences(one: object, other: object, path: str = "") -> list[str]:
    """Where two nested states differ in a bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [f"{path}.{key}: only in one" for key in one.keys() ^ other.keys()]
        return keys + [
            d for key in one.keys() & other.keys() for d in differences(one[key], other[key], f"{path}.{key}")
        ]
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        return [d for i, (a, b) in enumerate(zip(one, other, strict=True)) for d in differences(a, b, f"{path}[{i}]")]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if one.dtype == other.dtype and torch.equal(one, other) else [f"{path}: tensors differ"]
    return [] if one == other else [f"{path}: {one} and {other}"]
