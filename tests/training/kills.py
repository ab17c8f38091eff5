"""Where and when a run of any task is killed, and that it then ends bit for bit as one that was not."""

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from fit_processes import PATIENCE, TINY, Runs, differences
from tiny_recipes import DINO, detection

from contagg.training import checkpoint
from contagg.training.saving import KeptWeights, SaveState

for _module in ("contagg.detection.fit", "contagg.self_supervised.fit"):
    importlib.import_module(_module)  # once, not in every forked process

ALL = ("--optimization.ema_decay", "0.9", "--optimization.accumulate", "2", "--run.precision", "bf16")
WRITTEN = ("metrics.csv", "checkpoints/best.safetensors", "checkpoints/last.safetensors")


@dataclass(frozen=True)
class Victim:
    """A task's run of seconds: its recipe, what is turned on beside, and the files that must be equal."""

    recipe: dict
    options: tuple[str, ...] = ()
    written: tuple[str, ...] = WRITTEN


def victim(task: str, composed: Path) -> Victim:
    """`composed` holds the images with objects."""
    if task == "detection":
        return Victim(detection(composed), ALL, (*WRITTEN, "figures/scores.json"))
    return Victim(DINO, ("--run.precision", "bf16")) if task == "dino" else Victim(TINY, ALL)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_after_step(step: int) -> Callable[[], None]:
    def meddle() -> None:
        whole = SaveState.on_train_batch_end

        def cut(self: SaveState, trainer: object, *rest: object) -> None:
            whole(self, trainer, *rest)
            if trainer.global_step == step:
                die()

        SaveState.on_train_batch_end = cut

    return meddle


def die_writing_state(number: int) -> Callable[[], None]:
    """Die with half of the number-th training state on the disk."""

    def meddle() -> None:
        whole, calls = checkpoint.write_atomically, iter(range(1, 1000))

        def cut(path: Path, content: bytes) -> None:
            if next(calls) == number:
                path.with_name(f".{path.name}.{os.getpid()}.tmp").write_bytes(content[: len(content) // 2])
                die()
            whole(path, content)

        checkpoint.write_atomically = cut

    return meddle


def die_between_weights_and_state() -> None:
    whole = KeptWeights.write

    def cut(self: KeptWeights, state: dict) -> None:
        whole(self, state)
        die()

    KeptWeights.write = cut


def die_in_validation() -> None:
    """Die once a batch of a validation is done."""
    SaveState.on_validation_batch_end = lambda *_: die()


def die_after_epoch() -> None:
    whole = SaveState.on_train_epoch_end

    def cut(self: SaveState, *rest: object) -> None:
        whole(self, *rest)
        die()

    SaveState.on_train_epoch_end = cut


def after(folder: Path, steps: int, seconds: float) -> Callable[[], bool]:
    """Whether so many more steps are saved, and then so much time is gone: how busy the machine is does not matter."""

    def saved() -> int:
        return max((int(path.stem.split("_")[-1]) for path in checkpoint.checkpoints(folder)), default=0)

    begin, reached = saved(), [float("inf")]

    def due() -> bool:
        if saved() >= begin + steps:
            reached[0] = min(reached[0], time.monotonic())
        return time.monotonic() - reached[0] >= seconds

    return due


def assert_equal(runs: Runs, one: str, other: str, written: tuple[str, ...] = WRITTEN) -> None:
    """Weights, optimizer, averages, rows and places in the data, and what is written for people."""
    found = differences(runs.state(one), runs.state(other))
    assert not found, f"{len(found)} differ: {found[:5]}"
    for name in written:
        assert (runs.folder / one / name).read_bytes() == (runs.folder / other / name).read_bytes(), name


def under_torchrun(runs: Runs, name: str, *options: str, meddle: str, launcher: tuple[str, ...] = ()) -> str:
    """What two processes of torchrun printed; `meddle` is Python that each runs first."""
    script = runs.folder / f"{name}.py"
    arguments = [
        "contagg",
        "fit",
        "-c",
        str(runs.recipe),
        "--run.folder",
        str(runs.folder / name),
        "--run.devices",
        "2",
        *options,
    ]
    script.write_text(f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import contagg_cli
{meddle}
sys.argv = {arguments!r}
contagg_cli.main()
""")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *launcher]
    process = subprocess.Popen([*command, str(script)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        printed, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.terminate()  # it takes its processes along, which are sessions of their own
        printed, _ = process.communicate(timeout=60)
        pytest.fail(f"no end after {PATIENCE} s: {printed}")
    return f"exit code {process.returncode}\n{printed}"
