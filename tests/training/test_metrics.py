"""The metrics file, and the loggers beside it, also when the disk is full."""

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest
from pytorch_lightning.loggers import CSVLogger, Logger

from contagg.errors import UserError
from contagg.training.guards import StepGuard
from contagg.training.metrics import EpochMetrics, make_loggers
from contagg.training.rows import write_rows
from contagg.training.signals import StopSignals


def test_columns_in_order_of_appearance_and_gaps_left_empty(tmp_path: Path) -> None:
    write_rows(tmp_path / "metrics.csv", [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "accuracy": 0.25, "loss": 0.125}])
    lines = (tmp_path / "metrics.csv").read_bytes().split(b"\r\n")
    assert lines == [b"epoch,loss,accuracy", b"1,0.5,", b"2,0.125,0.25", b""]


class FullDisk(Logger):
    name, version = "full", 0

    def log_hyperparams(self, *_: object) -> None: ...

    def log_metrics(self, *_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def finalize(self, status: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_costs_its_logger_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guard = StepGuard(StopSignals(), 60)
    guard.losses, guard.learning_rate = {"loss": 0.75}, 0.01
    sound = CSVLogger(tmp_path, name="csv", version="")
    metrics = EpochMetrics(tmp_path, guard, 1, [FullDisk(), sound])
    trainer = SimpleNamespace(global_step=5, current_epoch=0, accumulate_grad_batches=1, num_training_batches=2)
    for _ in range(2):
        metrics.on_train_batch_end(trainer, None, None, None, 0)
    metrics.loggers.append(FullDisk())
    metrics.teardown(trainer, None, "fit")
    metrics.loggers.pop()
    metrics.on_train_epoch_end(trainer, None)
    assert metrics.rows == [{"epoch": 1, "step": 5, "learning_rate": 0.01, "train_loss": 0.75}]
    assert capsys.readouterr().out.count("FullDisk takes no more entries: No space left on device") == 1
    assert metrics.loggers == [sound] and "step/loss" in (tmp_path / "csv" / "metrics.csv").read_text()


def test_a_logger_whose_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("no wandb")

    monkeypatch.setattr("contagg.training.metrics.WandbLogger", missing)
    with pytest.raises(
        UserError, match=r"run\.loggers: wandb needs a package .* pip install 'contagg\[loggers\]', or wandb"
    ):
        make_loggers(["csv", "wandb"], tmp_path, 0)


def test_mlflow_writes_a_database_in_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mlflow 3 refuses a folder of plain files where nobody has asked for it by a variable."""
    given: dict[str, str] = {}
    monkeypatch.setattr("contagg.training.metrics.MLFlowLogger", lambda name, **options: given.update(options))
    make_loggers(["mlflow"], tmp_path / "run", 0)
    folder = (tmp_path / "run").resolve()
    assert given["tracking_uri"] == f"sqlite:///{folder}/mlflow.db" and given["run_name"] == "run"
    assert given["artifact_location"] == f"file://{folder}/mlruns"
