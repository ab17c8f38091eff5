"""The moving average equals timm's, and a short run's is of use; both weights are validated and saved."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fit_processes import Runs
from pytorch_lightning import LightningModule
from safetensors.torch import load_file
from timm.utils import ModelEmaV3
from torch import nn

from contagg.checkpoints.weights import read_weights
from contagg.training.averaging import MovingAverage
from contagg.training.metrics import EpochMetrics


class Network(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.9999])
def test_thirty_steps_equal_timms(decay: float, tmp_path: Path) -> None:
    """Parameters, BatchNorm's statistics and its count of batches."""
    torch.manual_seed(0)
    model = Network()
    theirs = ModelEmaV3(model, decay=decay, use_warmup=True)
    ours = MovingAverage(decay, EpochMetrics(tmp_path, None, 1))
    trainer = SimpleNamespace(global_step=0)
    ours.setup(trainer, model, "fit")
    for step in range(1, 31):
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.add_(torch.randn(tensor.shape) if tensor.is_floating_point() else 1)
        trainer.global_step = step
        ours.on_train_batch_end(trainer, model, None, None, step)
        theirs.update(model, step=step)
        average = ours._average_model.module.state_dict()
        for name, expected in theirs.module.state_dict().items():
            torch.testing.assert_close(average[name], expected, rtol=1e-6, atol=1e-7)
    assert not torch.equal(average["layers.1.running_mean"], model.state_dict()["layers.1.running_mean"])


def test_both_are_validated_and_saved_each_with_its_best(runs: Runs) -> None:
    assert runs.fit("run", "--optimization.ema_decay", "0.9", "--run.keep_best", "2") == 0, runs.output
    folder = runs.folder / "run" / "checkpoints"
    state = runs.state("run")
    rows = state["callbacks"]["EpochMetrics"]["rows"]
    assert all({"accuracy", "accuracy_raw", "validation_loss", "validation_loss_raw"} <= row.keys() for row in rows)
    assert any(row["validation_loss"] != row["validation_loss_raw"] for row in rows)
    for suffix, key in (("", "state_dict"), ("_raw", "current_model_state")):
        weights = load_file(folder / f"last{suffix}.safetensors")
        assert weights and all(torch.equal(value, state[key][f"model.{name}"]) for name, value in weights.items())
        ranked = sorted(rows, key=lambda row: (-row[f"accuracy{suffix}"], row["epoch"]))
        assert read_weights(folder / f"best{suffix}.safetensors")[1]["epoch"] == ranked[0]["epoch"]
        kept = {path.name for path in folder.glob(f"best{suffix}_epoch_*")}
        assert kept == {f"best{suffix}_epoch_{row['epoch']:05d}.safetensors" for row in ranked[:2]}


def test_a_short_run_with_a_long_average_has_learnt(runs: Runs) -> None:
    """With a constant decay of 0.9999 the average after 21 steps would be the weights after the first."""
    assert runs.fit("run", "--optimization.ema_decay", "0.9999") == 0, runs.output
    rows = runs.state("run")["callbacks"]["EpochMetrics"]["rows"]
    began, ended = rows[0]["validation_loss_raw"], rows[-1]["validation_loss_raw"]
    assert rows[-1]["validation_loss"] < began - (began - ended) / 2
