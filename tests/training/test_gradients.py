"""What the engine does around a step, against gradients computed by hand: the loss is linear, they are its inputs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from contagg.data.fingerprint import Fingerprint
from contagg.training import engine
from contagg.training.config import OptimizationConfig, RunConfig
from contagg.training.engine import Job, train
from contagg.training.optimizer import build_optimizer
from contagg.training.run_folder import RunFolder


class Batches:
    """Equal batches each epoch."""

    def __init__(self, batches: Tensor) -> None:
        self.batches, self.sampler = batches, self

    def set_epoch(self, epoch: int) -> None:
        pass

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.batches


class Linear(LightningModule):
    """loss = <w, x> + <v, x[:2]> for a batch x of numbers: its gradient is x, whatever w and v are."""

    def __init__(self, config: OptimizationConfig, batches: Tensor) -> None:
        super().__init__()
        self.config, self.seen = config, []
        self.w, self.v = nn.Parameter(torch.zeros(batches.shape[1])), nn.Parameter(torch.zeros(2))
        self.conv = nn.Conv2d(2, 3, 3)
        self.autocast: set[Any] = set()
        self.layouts: set[bool] = set()

    def training_step(self, batch: Tensor, batch_idx: int) -> dict[str, Tensor]:
        self.autocast.add(torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu"))
        self.layouts.add(self.conv.weight.is_contiguous(memory_format=torch.channels_last))
        loss = (self.w * batch).sum() + (self.v * batch[:2]).sum()
        return {"loss": loss, "first": batch[0]}

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("score", self.w.sum())

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.seen.append((self.w.grad.clone(), self.v.grad.clone()))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return build_optimizer(self, self.config)


def trained(folder: Path, batches: Tensor, run: dict | None = None, **values: Any) -> tuple[Linear, list]:
    config = OptimizationConfig(**({"epochs": 1, "warmup_epochs": 0, "batch_size": 1} | values))
    task = Linear(config, batches)
    job = Job(
        task=task,
        networks=[],
        train_batches=lambda rank, world_size: Batches(batches),
        validation_batches=lambda rank, world_size: [batches[0]],
        optimization=config,
        monitor="score",
        export="conv",
        metadata={},
        fingerprint=Fingerprint([]),
    )
    rows = train(job, RunConfig(folder=str(folder), accelerator="cpu", **(run or {})), RunFolder(folder))
    return task, rows


@pytest.fixture
def numbers() -> Tensor:
    """Ten batches of five numbers."""
    return torch.randn(10, 5, generator=torch.Generator().manual_seed(1))


def test_each_steps_gradient_is_the_mean_of_its_own_batches(tmp_path: Path, numbers: Tensor) -> None:
    """Of ten batches by fours the last two make a step of their own."""
    (tmp_path / "checkpoints").mkdir()
    task, _ = trained(tmp_path, numbers, accumulate=4)
    assert len(task.seen) == 3
    for (gradient, _), batches in zip(task.seen, numbers.split(4), strict=True):
        torch.testing.assert_close(gradient, batches.mean(0))


@pytest.mark.parametrize("accumulate", [1, 4])
def test_clipping_scales_the_norm_of_all_and_keeps_the_direction(
    tmp_path: Path, numbers: Tensor, accumulate: int
) -> None:
    (tmp_path / "checkpoints").mkdir()
    task, _ = trained(tmp_path, numbers, max_grad_norm=0.5, accumulate=accumulate)
    for (w, v), batches in zip(task.seen, numbers.split(accumulate), strict=True):
        mean = batches.mean(0)
        norm = torch.cat([mean, mean[:2]]).norm()
        scale = (0.5 / (norm + 1e-6)).clamp(max=1)
        torch.testing.assert_close(w, mean * scale)
        torch.testing.assert_close(v, mean[:2] * scale)
    assert any((w.norm() ** 2 + v.norm() ** 2).sqrt() > 0.49 for w, v in task.seen)


def test_clipping_by_tensor(tmp_path: Path, numbers: Tensor) -> None:
    (tmp_path / "checkpoints").mkdir()
    task, _ = trained(tmp_path, numbers, max_grad_norm=0.5, grad_norm_of="tensor")
    for (w, v), batch in zip(task.seen, numbers, strict=True):
        torch.testing.assert_close(w, batch * (0.5 / (batch.norm() + 1e-6)).clamp(max=1))
        torch.testing.assert_close(v, batch[:2] * (0.5 / (batch[:2].norm() + 1e-6)).clamp(max=1))


@pytest.mark.parametrize("accumulate", [1, 4])
def test_losses_of_an_epoch_are_means_over_all_its_batches(tmp_path: Path, numbers: Tensor, accumulate: int) -> None:
    (tmp_path / "checkpoints").mkdir()
    values = {"lr": 1e-9, "lr_batch_size": None, "weight_decay": 0.0, "min_lr": 0.0}
    shifted = numbers + 3
    task, rows = trained(tmp_path, shifted, accumulate=accumulate, epochs=2, **values)
    assert rows[0]["train_first"] == pytest.approx(shifted[:, 0].mean().item(), rel=1e-6)
    with torch.no_grad():
        task.w.fill_(1.0)
        expected = torch.stack([task.training_step(batch, 0)["loss"] for batch in shifted]).mean()

    class Started(Linear):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            nn.init.ones_(self.w)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(trained.__globals__, "Linear", Started)
        (tmp_path / "again" / "checkpoints").mkdir(parents=True)
        _, rows = trained(tmp_path / "again", shifted, accumulate=accumulate, epochs=1, **values)
    assert rows[0]["train_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_milestones_count_the_engines_steps(tmp_path: Path, numbers: Tensor) -> None:
    (tmp_path / "checkpoints").mkdir()
    steps = {"schedule": "step", "milestones": (2,), "lr_batch_size": None, "lr": 0.25}
    task, rows = trained(tmp_path, numbers[:5], accumulate=4, epochs=4, **steps)
    assert len(task.seen) == 8
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.25, 0.25, 0.025, 0.025])


def test_the_run_is_made_as_its_recipe_says(tmp_path: Path, numbers: Tensor) -> None:
    """Precision and layout are those of the step; neither is there unless asked for."""
    for folder in ("plain", "asked"):
        (tmp_path / folder / "checkpoints").mkdir(parents=True)
    plain, _ = trained(tmp_path / "plain", numbers)
    asked, _ = trained(tmp_path / "asked", numbers, {"precision": "bf16", "channels_last": True})
    assert (plain.autocast, plain.layouts) == ({False}, {False})
    assert (asked.autocast, asked.layouts) == ({torch.bfloat16}, {True})


def test_what_a_cpu_cannot_do_reaches_the_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(engine, "Trainer", lambda **options: given.update(options))
    config = OptimizationConfig(epochs=9, accumulate=3)
    job = Job(
        task=None, networks=[], train_batches=None, validation_batches=None, optimization=config, monitor="score",
        metadata={}, fingerprint=Fingerprint([]), validate_every=2,
    )  # fmt: skip
    run = RunConfig(
        folder=str(tmp_path), accelerator="cuda", devices=4, nodes=2, strategy="ddp", precision="fp16",
        synchronize_batchnorm=True,
    )  # fmt: skip
    engine._trainer(job, run, RunFolder(tmp_path), [], None)
    asked = {
        "accelerator": "cuda", "devices": 4, "num_nodes": 2, "strategy": "ddp", "precision": "16-mixed",
        "sync_batchnorm": True, "max_epochs": 9, "accumulate_grad_batches": 3, "check_val_every_n_epoch": 2,
    }  # fmt: skip
    assert given | asked == given
