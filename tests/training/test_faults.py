"""What goes wrong in a run is named in one line, and what was saved before stays good."""

import errno
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from fit_processes import TINY, Runs, differences

from contagg import files
from contagg.classification.task import Classification
from contagg.training import checkpoint
from contagg.training.saving import SaveState


def states(runs: Runs, name: str) -> list[Path]:
    return checkpoint.checkpoints(runs.folder / name / "checkpoints")


def signalled_after_step(step: int, number: int) -> Callable[[], None]:
    def meddle() -> None:
        before = SaveState.on_train_batch_end

        def signalled(self: SaveState, trainer: object, pl_module: object, *rest: object) -> None:
            if trainer.global_step == step - 1:
                os.kill(os.getpid(), number)  # during the step before: it is answered after the next
            before(self, trainer, pl_module, *rest)

        SaveState.on_train_batch_end = signalled

    return meddle


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_asked_to_stop_it_saves_and_says_how_to_go_on(runs: Runs, whole: dict, number: int) -> None:
    rare = ("--run.checkpoint_minutes", "60")
    meddle = signalled_after_step(3, number)
    assert runs.fit("cut", *rare, "--run.workers", "2", meddle=meddle) == 128 + number, runs.output
    assert "stopped after step 3 (epoch 1) and saved in" in runs.output
    assert "give the same command to go on" in runs.output
    assert "Traceback" not in runs.output
    assert [path.name for path in states(runs, "cut")] == ["epoch_00000_step_000000003.ckpt"]
    assert runs.fit("cut", *rare) == 0, runs.output
    assert differences(whole, runs.state("cut")) == []


def poison(step: int, what: str) -> Callable[[], None]:
    def meddle() -> None:
        sound = Classification.training_step

        def poisoned(self: Classification, batch: object, batch_idx: int) -> dict[str, torch.Tensor]:
            out = sound(self, batch, batch_idx)
            if self.global_step == step and what == "loss":
                out["loss"] = out["loss"] * float("nan")
            if self.global_step == step and what == "weight":
                next(self.model.parameters()).data.fill_(float("inf"))
                out["loss"] = torch.nan_to_num(out["loss"]) * 0 + 1
            return out

        Classification.training_step = poisoned

    return meddle


def test_a_loss_that_is_not_finite_stops_before_anything_is_saved(runs: Runs) -> None:
    assert runs.fit("run", meddle=poison(9, "loss")) == 2
    assert "loss became nan at epoch 2, batch 3, step 10, learning rate 0.00184" in runs.output
    assert "Traceback" not in runs.output
    newest = states(runs, "run")[-1]
    assert newest.name == "epoch_00001_step_000000009.ckpt"
    state = torch.load(newest, weights_only=True)
    assert all(torch.isfinite(tensor).all() for tensor in state["state_dict"].values())


def test_a_weight_that_is_not_finite_is_not_saved(runs: Runs) -> None:
    assert runs.fit("run", meddle=poison(4, "weight")) == 2
    assert " is not finite: " in runs.output and "after step 5; nothing was saved since" in runs.output
    assert states(runs, "run")[-1].name == "epoch_00000_step_000000004.ckpt"


def disk_full(first: int, last: int, suffix: str) -> Callable[[], None]:
    """Writes number `first` to `last` of files that end in `suffix` meet a full disk."""

    def meddle() -> None:
        whole, calls = files.write_atomically, iter(range(1, 1000))

        def full(path: Path, content: bytes) -> None:
            if path.suffix == suffix and first <= next(calls) <= last:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            whole(path, content)

        checkpoint.write_atomically = full

    return meddle


def test_a_disk_full_for_a_while_is_reported_and_training_goes_on(runs: Runs, whole: dict) -> None:
    assert runs.fit("run", meddle=disk_full(3, 4, ".ckpt")) == 0, runs.output
    folder = runs.folder / "run" / "checkpoints"
    assert f"warning: could not save {folder}/epoch_00000_step_000000003.ckpt: No space left on device" in runs.output
    assert f"the last good one is {folder}/epoch_00000_step_000000002.ckpt" in runs.output
    assert runs.output.count("warning: could not save") == 2
    assert differences(whole, runs.state("run")) == []


def test_a_disk_that_stays_full_stops_the_run_and_the_last_good_state_resumes(runs: Runs, whole: dict) -> None:
    assert runs.fit("run", meddle=disk_full(3, 99, ".ckpt")) == 2
    folder = runs.folder / "run" / "checkpoints"
    assert f"could not save {folder}/epoch_00000_step_000000005.ckpt: No space left on device" in runs.output
    assert "Make room and give the same command" in runs.output
    assert runs.fit("run") == 0
    assert f"going on from {folder}/epoch_00000_step_000000002.ckpt" in runs.output
    assert differences(whole, runs.state("run")) == []


def test_a_damaged_newest_state_is_named_and_the_one_before_is_used(runs: Runs, whole: dict) -> None:
    assert runs.fit("run", meddle=signalled_after_step(9, signal.SIGTERM)) == 128 + signal.SIGTERM
    newest = states(runs, "run")[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    assert runs.fit("run") == 0, runs.output
    assert f"warning: {newest} is damaged (its checksum does not match); it was renamed" in runs.output
    assert "going on from" in runs.output
    assert newest.with_name(newest.name + ".damaged").exists()
    assert differences(whole, runs.state("run")) == []


@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_what_is_named_like_a_state_but_is_none(runs: Runs, whole: dict, kind: str) -> None:
    odd = runs.folder / "run" / "checkpoints" / "epoch_00009_step_000000099.ckpt"
    odd.parent.mkdir(parents=True)
    os.mkfifo(odd) if kind == "fifo" else odd.mkdir()
    sound = odd.with_name("epoch_00000_step_000000000.ckpt")
    assert runs.fit("other", meddle=signalled_after_step(2, signal.SIGTERM)) == 128 + signal.SIGTERM
    states(runs, "other")[-1].rename(sound)
    assert runs.fit("run") == 0, runs.output
    assert f"warning: {odd} is damaged (it is no regular file); it was renamed" in runs.output
    assert differences(whole, runs.state("run")) == []


def test_a_killed_data_worker_is_named(runs: Runs) -> None:
    def kill_a_worker() -> None:
        step = Classification.training_step

        def killing(self: Classification, batch: object, batch_idx: int) -> object:
            if self.global_step == 1:
                loader = self.trainer.train_dataloader
                os.kill(loader._iterator._workers[0].pid, signal.SIGKILL)
                signal.sigtimedwait([signal.SIGUSR2], 0.5)  # let the kernel tell
            return step(self, batch, batch_idx)

        Classification.training_step = killing

    assert runs.fit("run", "--run.workers", "1", meddle=kill_a_worker) == 2
    assert "a process that reads data died: DataLoader worker" in runs.output
    assert "is killed by signal: Killed" in runs.output
    assert runs.fit("run", "--run.workers", "1") == 0, runs.output


BEFORE_WORK = [
    ("--optimization.batch_size 102", "100 training images are fewer than a batch of 102"),
    ("--run.accelerator cuda", "this machine has 0 GPUs"),
    ("--run.accelerator auto --run.precision fp16", "run.precision fp16 needs a GPU"),
    ("--model.name container_lite", "unknown model 'container_lite'. Did you mean 'container_light'?"),
    ("--model.options.widht 3", "container_light_tiny"),
    ("--model.init_weights nothing.pth", "no weights at 'nothing.pth'"),
]


@pytest.mark.parametrize(("options", "message"), BEFORE_WORK, ids=[options for options, _ in BEFORE_WORK])
@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing on a machine without GPUs")
def test_what_the_machine_or_the_model_cannot_do(runs: Runs, options: str, message: str) -> None:
    assert runs.fit("run", *options.split()) == 2
    assert message in runs.output
    assert len([line for line in runs.output.splitlines() if line]) == 1, runs.output
    assert states(runs, "run") == []
    assert not (runs.folder / "run").exists()


def test_started_with_another_number_of_processes(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert runs.fit("run") == 2
    assert "4 processes were started, but run.devices x run.nodes is 1" in runs.output


def test_limits_of_space(runs: Runs) -> None:
    recipe = TINY | {"run": TINY["run"] | {"keep_last": 2, "keep_best": 2}}
    runs.recipe.write_text(yaml.safe_dump(recipe))
    assert runs.fit("run") == 0, runs.output
    folder = runs.folder / "run" / "checkpoints"
    names = sorted(path.name for path in folder.iterdir())
    assert [name for name in names if name.endswith(".ckpt")] == [
        "epoch_00002_step_000000020.ckpt",
        "epoch_00003_step_000000021.ckpt",
    ]
    rows = torch.load(folder / "epoch_00003_step_000000021.ckpt", weights_only=True)["callbacks"]["EpochMetrics"][
        "rows"
    ]
    best = sorted(rows, key=lambda row: (-row["accuracy"], row["epoch"]))[:2]
    assert [name for name in names if name.startswith("best_epoch")] == sorted(
        f"best_epoch_{row['epoch']:05d}.safetensors" for row in best
    )
    assert (folder / f"best_epoch_{best[0]['epoch']:05d}.safetensors").read_bytes() == (
        folder / "best.safetensors"
    ).read_bytes()


def test_a_statistic_that_is_not_finite_is_not_saved(runs: Runs) -> None:
    def meddle() -> None:
        sound = Classification.training_step

        def poisoned(self: Classification, batch: object, batch_idx: int) -> dict[str, torch.Tensor]:
            if self.global_step == 3:
                dict(self.model.named_buffers())["bn1.running_mean"].fill_(float("nan"))
            return sound(self, batch, batch_idx)

        Classification.training_step = poisoned

    recipe = TINY | {"model": {"name": "test_resnet", "image_size": 32, "channels": 1, "drop_path": 0.0}}
    runs.recipe.write_text(yaml.safe_dump(recipe))
    assert runs.fit("run", meddle=meddle) == 2, runs.output
    assert "model.bn1.running_mean is not finite" in runs.output, runs.output
    assert states(runs, "run")[-1].name == "epoch_00000_step_000000003.ckpt"


def fit_command(runs: Runs, name: str) -> list[str]:
    script = "import sys; from contagg.cli import main; main(sys.argv[1:])"
    return [sys.executable, "-c", script, "fit", "-c", str(runs.recipe), "--run.folder", str(runs.folder / name)]


SLOW_ENDINGS = [
    [">&-"],
    [">&-", "2>&-"],
    [">/dev/full", "2>/dev/full"],
]  # 22 s each, as a command of its own imports torch


@pytest.mark.parametrize(
    "ending", [["|", "head", "-1"], *(pytest.param(it, marks=pytest.mark.slow) for it in SLOW_ENDINGS)]
)
def test_a_log_that_cannot_be_written_costs_no_epoch(runs: Runs, ending: list[str]) -> None:
    few = ["--optimization.epochs", "2", "--run.checkpoint_minutes", "60"]
    command = " ".join([shlex.join([*fit_command(runs, "run"), *few]), *ending])
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr
    assert states(runs, "run")[-1].name == "epoch_00002_step_000000014.ckpt"
    assert (runs.folder / "run" / "figures" / "curves.png").exists()


def test_a_second_ctrl_c_says_what_is_left(runs: Runs) -> None:
    def twice() -> None:
        sound = Classification.training_step

        def asked(self: Classification, batch: object, batch_idx: int) -> dict[str, torch.Tensor]:
            if self.global_step == 3:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
            return sound(self, batch, batch_idx)

        Classification.training_step = asked

    assert runs.fit("run", meddle=twice) == 130, runs.output
    assert "contagg: interrupted at once: the same command goes on from the last saved state" in runs.output
    assert "Traceback" not in runs.output
