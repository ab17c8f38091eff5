"""Runs of every task, killed at chosen points and at random moments, end bit for bit as those that were not."""

import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fit_processes import Runs, differences
from kills import (
    Victim,
    after,
    assert_equal,
    die_after_step,
    die_between_weights_and_state,
    die_in_validation,
    under_torchrun,
    victim,
)

from contagg.training.saving import SaveState

TASKS = ["classification", "detection", "dino"]
KILLS = int(os.environ.get("KILLS", "204"))
"""Of all tasks, with one process and with two."""


@pytest.mark.parametrize("task", [pytest.param("detection", marks=pytest.mark.slow), "dino"])
def test_a_killed_run_ends_bit_for_bit_as_a_whole_one(task: str, composed: Path, tmp_path: Path) -> None:
    """In the midst of an epoch, in validation, and between the weights and the state of an epoch."""
    killed = victim(task, composed)
    runs = Runs(tmp_path, killed.recipe)
    options = (*killed.options, "--optimization.epochs", "2")
    assert runs.fit("whole", *options) == 0, runs.output
    for workers, meddle in enumerate((die_after_step(2), die_in_validation, die_between_weights_and_state)):
        assert runs.fit("cut", *options, "--run.workers", str(workers), meddle=meddle) == -signal.SIGKILL, runs.output
    assert runs.fit("cut", *options) == 0 and "going on from" in runs.output, runs.output
    assert_equal(runs, "whole", "cut", killed.written)


POINTS: list[tuple[int, Callable[[], None]]] = [
    (1, die_after_step(1)),
    (0, die_after_step(2)),
    (1, die_in_validation),
    (0, die_between_weights_and_state),
    (0, die_in_validation),
]
"""Which of two ranks dies where; files are the first one's alone."""


def test_all_ranks_validate_the_network_that_is_saved(tmp_path: Path) -> None:
    """Also BatchNorm's statistics, of the weights under way and of their average, of which each rank has its own."""

    def watch() -> None:
        def look(self: SaveState, trainer: object, task: torch.nn.Module, *_: object) -> None:
            torch.save(dict(task.state_dict()), tmp_path / f"seen_{len(list(tmp_path.glob('seen_*')))}")

        SaveState.on_validation_batch_end = look

    runs = Runs(tmp_path)
    options = ("--optimization.ema_decay", "0.9", "--optimization.epochs", "1", "--optimization.warmup_epochs", "0")
    assert runs.fit("run", *options, ranks=2, victim=1, meddle=watch) == 0, runs.output
    saved = runs.state("run")
    for number, name in enumerate(("current_model_state", "state_dict")):
        assert not differences(torch.load(tmp_path / f"seen_{number}"), dict(saved[name]))


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_one_of_two_ranks_killed_at_chosen_points(task: str, composed: Path, tmp_path: Path) -> None:
    killed = victim(task, composed)
    runs = Runs(tmp_path, killed.recipe)
    assert runs.fit("whole", *killed.options, ranks=2) == 0, runs.output
    for rank, meddle in POINTS:
        assert runs.fit("cut", *killed.options, meddle=meddle, ranks=2, victim=rank) == -signal.SIGKILL, runs.output
    assert runs.fit("cut", *killed.options, ranks=2) == 0 and "going on from" in runs.output, runs.output
    assert_equal(runs, "whole", "cut", killed.written)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detection", "dino"])
def test_torchrun_starts_a_job_of_any_task_again(task: str, composed: Path, tmp_path: Path) -> None:
    """Each rank is killed once; that of classification is in test_processes.py."""
    killed = victim(task, composed)
    runs = Runs(tmp_path, killed.recipe)
    assert runs.fit("whole", *killed.options, ranks=2) == 0, runs.output
    meddle = """
from kills import die_after_step, die_in_validation
attempt, rank = os.environ["TORCHELASTIC_RESTART_COUNT"], os.environ["LOCAL_RANK"]
if attempt == "0" and rank == "1":
    die_after_step(2)()
if attempt == "1" and rank == "0":
    die_in_validation()
"""
    printed = under_torchrun(runs, "cut", *killed.options, meddle=meddle, launcher=("--max-restarts", "2"))
    assert printed.startswith("exit code 0\n"), printed
    assert len(re.findall(r"going on from ", printed)) == 2, printed
    assert_equal(runs, "whole", "cut", killed.written)


class Campaign:
    """Kills of one task's runs, one line each in `kills.jsonl`, so that they go on where they were broken off.

    The n-th kill of a task is always drawn alike. A run that comes to its end is compared and another one begins.
    """

    def __init__(self, folder: Path, task: str, ranks: int, killed: Victim) -> None:
        self.runs, self.killed, self.ranks, self.name = Runs(folder, killed.recipe), killed, ranks, f"{task} x {ranks}"
        self.log = folder / "kills.jsonl"
        self.done = [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []
        if not (folder / "whole" / "done").exists():
            assert self.runs.fit("whole", *killed.options, ranks=ranks) == 0, self.runs.output
            (folder / "whole" / "done").touch()

    def kill(self) -> None:
        """One more, or an end and a comparison."""
        number, run = len(self.done), f"cut_{sum('equal' in line for line in self.done)}"
        draw = random.Random(int(hashlib.sha256(f"{self.name} {number}".encode()).hexdigest(), 16))
        steps, seconds, rank, workers = (
            draw.randint(0, 4),
            draw.random(),
            draw.randrange(self.ranks),
            draw.randint(0, 2),
        )
        folder = self.runs.folder / run / "checkpoints"
        when, before = after(folder, steps, seconds), _seconds()
        options = (*self.killed.options, "--run.workers", str(workers))
        code = self.runs.fit(run, *options, kill_when=when, ranks=self.ranks, victim=rank)
        line: dict[str, object] = {"steps": steps, "seconds": seconds, "rank": rank, "workers": workers}
        assert code in (0, -signal.SIGKILL), self.runs.output
        if code == 0:
            self.compare(run)
            line["equal"] = True
        else:
            line |= {"half_written": len(list(folder.glob(".*.tmp"))), "states": len(list(folder.glob("*.ckpt")))}
        self.done.append(line | {"cpu_seconds": round(_seconds() - before, 2)})
        with self.log.open("a") as file:
            file.write(json.dumps(self.done[-1]) + "\n")

    def end(self) -> None:
        """Let the last run come to its end."""
        run = f"cut_{sum('equal' in line for line in self.done)}"
        assert self.runs.fit(run, *self.killed.options, ranks=self.ranks) == 0, self.runs.output
        self.compare(run)

    def compare(self, run: str) -> None:
        assert_equal(self.runs, "whole", run, self.killed.written)
        assert list((self.runs.folder / run / "checkpoints").glob(".*")) == []

    @property
    def killed_so_far(self) -> int:
        return sum("equal" not in line for line in self.done)


def _seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_at_random_moments(task: str, ranks: int, composed: Path, tmp_path: Path) -> None:
    """By the clock, from outside, whatever it is doing; KILLS_FOLDER keeps the count over calls of this test."""
    folder = Path(os.environ.get("KILLS_FOLDER", tmp_path)) / f"{task}_{ranks}"
    folder.mkdir(parents=True, exist_ok=True)
    data = folder.parent / "composed"  # where the recipe of a count that goes on finds it
    if not data.exists():
        shutil.copytree(composed, data)
    killed = victim(task, data)
    options = (*killed.options, "--optimization.epochs", "4")
    campaign = Campaign(folder, task, ranks, replace(killed, options=options))
    while campaign.killed_so_far < KILLS // 6:
        campaign.kill()
    campaign.end()
