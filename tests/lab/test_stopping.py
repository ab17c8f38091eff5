"""`contagg compare` in processes that are stopped, killed or work beside each other."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from laboratory import RECIPE, compare, rows, written

RECIPE_OF_STEPS = RECIPE | {"optimization": RECIPE["optimization"] | {"epochs": 30}}  # long enough to be met at work
WORDS = ("--affinity", "identity", "dwconv3", "--seeds", "1", "--rounds", "0")
TWO_JOBS = ("--jobs", "2")  # only where they are stopped: each is a process that imports torch
EVERY_STEP = ("--run.checkpoint_minutes", "0")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison that was left alone."""
    folder = tmp_path_factory.mktemp("whole")
    compare(written(folder, RECIPE_OF_STEPS), folder / "out", *WORDS)
    return folder


def start(recipe: str, folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "contagg", "compare", "-c", recipe, "-o", str(folder), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(what: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.02)


def states(folder: Path) -> list[Path]:
    return sorted(folder.glob("runs/*/*/checkpoints/*.ckpt"))


@pytest.mark.slow  # 118 s
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_and_resumed(how: signal.Signals, whole: Path, tmp_path: Path) -> None:
    """Two jobs are stopped between two steps; the command without jobs then ends as one that was left alone."""
    recipe, out = str(whole / "tiny.yaml"), tmp_path / "out"
    process = start(recipe, out, *WORDS, *TWO_JOBS, *EVERY_STEP)
    wait_for(lambda: len({path.parents[2] for path in states(out)}) == 2)
    process.send_signal(how)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == (143 if how == signal.SIGTERM else -how), printed
    wait_for(lambda: not held(out))  # what a killed command leaves behind saves and ends by itself
    assert len(states(out)) >= 2 and not (out / "runs.json").exists()
    compare(recipe, out, *WORDS)
    for key, row in rows(whole / "out").items():
        assert rows(out)[key]["metrics"] == row["metrics"]
        assert row["seconds"] is not None and rows(out)[key]["seconds"] is None
        log = next(out.glob(f"runs/{key[0]}/*/log.txt")).read_text()
        assert "going on from" in log


def held(folder: Path) -> bool:
    """Whether a process works on one of the runs."""
    found = subprocess.run(["fuser", *folder.glob("runs/*/*/.lock")], capture_output=True, check=False)
    return bool(found.stdout.split())


@pytest.mark.slow  # 87 s: each command and its workers import torch
def test_two_commands_share_the_work(whole: Path, tmp_path: Path) -> None:
    words = ("--affinity", "identity", "dwconv3", "pool3", "--seeds", "1", "--rounds", "0")
    processes = [start(str(whole / "tiny.yaml"), tmp_path / "out", *words) for _ in range(2)]
    printed = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    content = json.loads((tmp_path / "out/runs.json").read_text())
    assert sorted(row["arm"] for row in content["rows"]) == ["dwconv3", "identity", "pool3"]
    assert any("another process makes it" in text for text in printed), printed
    made = {(row["arm"], row["seed"]): row["metrics"] for row in content["rows"]}
    assert all(made[key] == row["metrics"] for key, row in rows(whole / "out").items())
