"""A run that was killed ends bit for bit as one that was not: weights, optimizer, average, metrics."""

import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fit_processes import Runs, differences

from contagg.training import checkpoint
from contagg.training.saving import KeptWeights, SaveState

ALL = ("--optimization.ema_decay", "0.9", "--optimization.accumulate", "2", "--run.precision", "bf16")
WRITTEN = ("metrics.csv", "checkpoints/best.safetensors", "checkpoints/last.safetensors")


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


def die_after_epoch() -> None:
    whole = SaveState.on_train_epoch_end

    def cut(self: SaveState, *rest: object) -> None:
        whole(self, *rest)
        die()

    SaveState.on_train_epoch_end = cut


def assert_equal(runs: Runs, one: str, other: str) -> None:
    assert differences(runs.state(one), runs.state(other)) == []
    for name in WRITTEN:
        assert (runs.folder / one / name).read_bytes() == (runs.folder / other / name).read_bytes(), name


def test_killed_again_and_again(runs: Runs) -> None:
    assert runs.fit("whole", *ALL) == 0, runs.output
    for meddle, workers in (
        (die_after_step(3), 0),
        (die_after_epoch, 2),
        (die_writing_state(2), 0),
        (die_between_weights_and_state, 1),
        (die_after_step(10), 2),
    ):
        assert runs.fit("cut", *ALL, "--run.workers", str(workers), meddle=meddle) == -signal.SIGKILL, runs.output
    assert runs.fit("cut", *ALL) == 0, runs.output
    assert "going on from" in runs.output
    assert_equal(runs, "whole", "cut")
    assert list((runs.folder / "cut" / "checkpoints").glob(".*")) == []


def test_same_command_after_the_end_changes_nothing(runs: Runs) -> None:
    short = ("--optimization.epochs", "2")
    assert runs.fit("whole", *short) == 0, runs.output
    before = {name: (runs.folder / "whole" / name).read_bytes() for name in WRITTEN}
    assert runs.fit("whole", *short) == 0, runs.output
    assert before == {name: (runs.folder / "whole" / name).read_bytes() for name in WRITTEN}


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


@pytest.mark.slow
def test_killed_at_random_moments(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clock, from outside, whatever it is doing; with the temporary folder on another file system."""
    generator = torch.Generator().manual_seed(0)
    monkeypatch.setattr(tempfile, "tempdir", "/dev/shm")  # forked processes inherit it; TMPDIR would be read no more
    assert Path(tempfile.gettempdir()).stat().st_dev != runs.folder.stat().st_dev
    options = (*ALL, "--optimization.epochs", "8")
    assert runs.fit("whole", *options) == 0, runs.output
    killed = 0
    for attempt in range(40):
        steps, seconds = int(torch.randint(0, 9, (), generator=generator)), torch.rand((), generator=generator).item()
        when = after(runs.folder / "cut" / "checkpoints", steps, seconds / 2)
        code = runs.fit("cut", *options, "--run.workers", str(attempt % 3), kill_when=when)
        if code == 0:
            break
        assert code == -signal.SIGKILL, runs.output
        killed += 1
    assert code == 0
    assert killed >= 3
    assert_equal(runs, "whole", "cut")
