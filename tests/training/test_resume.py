"""A run that was killed ends bit for bit as one that was not: weights, optimizer, average, metrics."""

import signal
import tempfile
from pathlib import Path

import pytest
import torch
from fit_processes import Runs
from kills import (
    ALL,
    WRITTEN,
    after,
    assert_equal,
    die_after_epoch,
    die_after_step,
    die_between_weights_and_state,
    die_writing_state,
)


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
