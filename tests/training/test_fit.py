"""What a finished run leaves behind."""

import csv
import math

import pytest
import torch
from fit_processes import Runs, _few_held_out, with_ink
from PIL import Image

from contagg.checkpoints.weights import load_model
from contagg.classification.evaluation import evaluate_file
from contagg.data.sources import DataConfig


def test_a_run_leaves_all_that_it_names(runs: Runs) -> None:
    options = ("--optimization.ema_decay", "0.5", "--run.log_every", "2", "--run.loggers", "[tensorboard,csv]")
    assert runs.fit("run", *options, meddle=with_ink) == 0, runs.output
    folder = runs.folder / "run"
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    validated = ["validation_loss_raw", "accuracy_raw", "validation_loss", "accuracy"]
    assert list(rows[0]) == ["epoch", "step", "learning_rate", "train_loss", *validated]
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "7"), ("2", "14"), ("3", "21")]
    rates = [1e-5 + 0.5 * (0.003 - 1e-5) * (1 + math.cos(math.pi * step / 21)) for step in (13, 20)]
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx([1e-6 + (0.003 - 1e-6) * 6 / 7, *rates])
    for picture in ("curves.png", "confusion.png", "predictions.png", "affinity.png"):
        assert min(Image.open(folder / "figures" / picture).size) > 300
    assert sum(path.stat().st_size for path in (folder / "tensorboard").iterdir()) > 500
    assert (folder / "csv" / "metrics.csv").read_text().count("\n") > 3
    for line in (
        "3 epochs of 7 batches; AdamW: ",
        "epoch 3/3  learning_rate 2.67",
        "next           contagg predict",
    ):
        assert line in runs.output
    assert "Traceback" not in runs.output
    assert "weights_only" not in runs.output


def test_weights_are_what_was_validated(runs: Runs) -> None:
    """The average, not the weights under way; read back as a user reads them."""
    assert runs.fit("run", "--optimization.ema_decay", "0.5") == 0, runs.output
    folder = runs.folder / "run" / "checkpoints"
    rows = runs.state("run")["callbacks"]["EpochMetrics"]["rows"]
    best = max(rows, key=lambda row: (row["accuracy"], -row["epoch"]))
    config = DataConfig(name="digits", fraction=0.07)
    data = _few_held_out(config)
    for name, row in (("best", best), ("last", rows[-1])):
        model, metadata = load_model(folder / f"{name}.safetensors")
        assert metadata["task"] == "classification"
        assert metadata["class_names"] == [str(digit) for digit in range(10)]
        assert (metadata["epoch"], metadata["metrics"]) == (row["epoch"], row)
        found = evaluate_file(
            folder / f"{name}.safetensors",
            data.validation,
            data.class_names,
            config.max_corrupt_fraction,
            batch_size=7,
            workers=0,
            device=torch.device("cpu"),
        )
        assert found.scores["accuracy"] == row["accuracy"]
        assert found.images == 23
    state = runs.state("run")
    raw, average = state["current_model_state"], state["state_dict"]
    exported = model.state_dict()
    name = "stages.0.embedding.projection.weight"
    assert torch.equal(exported[name], average[f"model.{name}"])
    assert not torch.equal(exported[name], raw[f"model.{name}"])
