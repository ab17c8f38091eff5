"""The metrics file, and TensorBoard's when the disk is full."""

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest

from contagg.training.guards import StepGuard
from contagg.training.metrics import EpochMetrics, write_rows
from contagg.training.progress import duration
from contagg.training.signals import StopSignals


def test_columns_in_order_of_appearance_and_gaps_left_empty(tmp_path: Path) -> None:
    write_rows(tmp_path / "metrics.csv", [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "accuracy": 0.25, "loss": 0.125}])
    lines = (tmp_path / "metrics.csv").read_bytes().split(b"\r\n")
    assert lines == [b"epoch,loss,accuracy", b"1,0.5,", b"2,0.125,0.25", b""]


class FullDisk:
    def add_scalar(self, *_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def close(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_costs_tensorboard_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guard = StepGuard(StopSignals(), 60)
    guard.losses, guard.learning_rate = {"loss": 0.75}, 0.01
    metrics = EpochMetrics(tmp_path, guard, log_every=1)
    trainer = SimpleNamespace(global_step=5, current_epoch=0, accumulate_grad_batches=1, num_training_batches=2)
    for disk in (FullDisk(), FullDisk()):
        metrics._writer = disk
        metrics.on_train_batch_end(trainer, None, None, None, 0)
    metrics._writer = FullDisk()
    metrics.teardown(trainer, None, "fit")
    metrics._writer = None
    metrics.on_train_epoch_end(trainer, None)
    assert metrics.rows == [{"epoch": 1, "step": 5, "learning_rate": 0.01, "train_loss": 0.75}]
    assert capsys.readouterr().out.count("TensorBoard's file takes no more entries: No space left on device") == 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (60, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (7380, "2 h 03 min"),
        (356400, "4 d 03 h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
