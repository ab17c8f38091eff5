"""Two processes over gloo: the same data as one, the same metrics, exact resume, and all stop together."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fit_processes import Runs, differences
from kills import ALL, under_torchrun
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

CONTAGG = Path(sys.executable).parent / "contagg"
TWO = ("--run.devices", "2", "--optimization.batch_size", "14")
PLAIN = (
    *("--augmentation.mixup", "0", "--augmentation.cutmix", "0", "--model.drop_path", "0"),
    *("--model.name", "test_vit", "--model.options", "{}", "--model.image_size", "32"),
    *("--optimization.lr", "1e-3"),
)
"""Without BatchNorm, whose statistics are each rank's own, and without what a rank draws."""


def contagg(runs: Runs, name: str, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CONTAGG), "fit", "-c", str(runs.recipe), "--run.folder", str(runs.folder / name)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False, timeout=300)
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def wait_for_two_states(runs: Runs, name: str, process: subprocess.Popen[str]) -> None:
    while len(list((runs.folder / name / "checkpoints").glob("*.ckpt"))) < 2:
        assert process.poll() is None
        signal.sigtimedwait([signal.SIGUSR2], 0.02)


def test_killed_with_two_processes(runs: Runs) -> None:
    options = (*TWO, *ALL)
    contagg(runs, "whole", *options)
    command = [str(CONTAGG), "fit", "-c", str(runs.recipe), "--run.folder", str(runs.folder / "cut"), *options]
    process = subprocess.Popen([sys.executable, *command], start_new_session=True, stdout=subprocess.DEVNULL)
    wait_for_two_states(runs, "cut", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = contagg(runs, "cut", *options, "--run.workers", "1")
    assert "going on from" in done.stdout
    assert differences(runs.state("whole"), runs.state("cut")) == []
    for name in ("metrics.csv", "checkpoints/best.safetensors"):
        assert (runs.folder / "whole" / name).read_bytes() == (runs.folder / "cut" / name).read_bytes()


def assert_close(runs: Runs, one: str, other: str) -> None:
    """To float32's rounding: weights, metrics, and the optimizer's moments, as AdamW hides a gradient's scale."""
    first, second = (load_file(runs.folder / name / "checkpoints" / "last.safetensors") for name in (one, other))
    assert max((first[name] - second[name]).abs().max().item() for name in first) < 1e-4
    moments = [runs.state(name)["optimizer_states"][0]["state"] for name in (one, other)]
    for mine, theirs in zip(moments[0].values(), moments[1].values(), strict=True):
        error = (mine["exp_avg"] - theirs["exp_avg"]).norm()
        assert error <= 1e-2 * mine["exp_avg"].norm()
    rows = [(runs.folder / name / "metrics.csv").read_text().splitlines() for name in (one, other)]
    for ours, others in zip(*rows, strict=True):
        if not ours.startswith("epoch"):
            values = [[float(value) for value in line.split(",")] for line in (ours, others)]
            assert values[0] == pytest.approx(values[1], abs=2e-3)


def test_two_ranks_equal_one_with_twice_the_batch(runs: Runs) -> None:
    contagg(runs, "one", *PLAIN, "--optimization.batch_size", "28")
    contagg(runs, "two", *PLAIN, *TWO)
    assert_close(runs, "one", "two")


@pytest.mark.parametrize("rank", ["0", "1"])
def test_torchrun_starts_a_job_again_whose_process_was_killed(runs: Runs, rank: str) -> None:
    meddle = f"""
from kills import die_after_step
if os.environ["LOCAL_RANK"] == {rank!r} and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    die_after_step(5)()
"""
    contagg(runs, "whole", *TWO)
    printed = under_torchrun(runs, "cut", meddle=meddle, launcher=("--max-restarts", "1"))
    assert printed.startswith("exit code 0\n"), printed
    assert re.search(r"going on from .*epoch_00001_step_00000000[45]\.ckpt", printed), printed
    assert differences(runs.state("whole"), runs.state("cut")) == []
    for name in ("metrics.csv", "checkpoints/best.safetensors"):
        assert (runs.folder / "whole" / name).read_bytes() == (runs.folder / "cut" / name).read_bytes()


def test_a_loss_that_is_not_finite_on_one_rank_stops_both(runs: Runs) -> None:
    meddle = """
from test_faults import poison
if os.environ["LOCAL_RANK"] == "1":
    poison(9, "loss")()
"""
    printed = under_torchrun(runs, "run", "--optimization.epochs", "6", meddle=meddle)
    assert not printed.startswith("exit code 0\n")
    found = re.findall(r"contagg( \[process 1\])?: error: loss became nan at epoch 4, batch 1, step 10", printed)
    assert sorted(found) == ["", " [process 1]"], printed
    state = runs.state("run")
    assert state["global_step"] == 9
    assert all(torch.isfinite(tensor).all() for tensor in state["state_dict"].values())


def test_both_stop_when_one_is_asked_to(runs: Runs) -> None:
    command = [str(CONTAGG), "fit", "-c", str(runs.recipe), "--run.folder", str(runs.folder / "run"), *TWO]
    process = subprocess.Popen(
        [sys.executable, *command, "--optimization.epochs", "60"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    wait_for_two_states(runs, "run", process)
    process.send_signal(signal.SIGTERM)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "give the same command to go on" in printed
    assert "Traceback" not in printed


def test_another_number_of_processes_goes_on_with_the_same_samples(runs: Runs) -> None:
    """It ends as two processes would have, to the same tolerance."""
    plain = (*PLAIN, "--optimization.epochs", "6")
    one, two = (*plain, "--optimization.batch_size", "28"), (*plain, *TWO)
    contagg(runs, "whole", *two)
    command = [str(CONTAGG), "fit", "-c", str(runs.recipe), "--run.folder", str(runs.folder / "run"), *two]
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_two_states(runs, "run", process)
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    refused = contagg(runs, "run", *plain, "--optimization.batch_size", "14", check=False)
    assert refused.returncode == 2
    assert "batch_size over all processes is 28 there and 14 here" in refused.stderr
    done = contagg(runs, "run", *one)
    assert re.search(r"going on from .*epoch_0000[0-5]_step_\d+\.ckpt", done.stdout), done.stdout
    assert runs.state("run")["global_step"] == 6 * 3
    assert_close(runs, "whole", "run")
