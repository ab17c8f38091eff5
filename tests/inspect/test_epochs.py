"""Epochs of a run side by side: each shows the weights that its own training state holds."""

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml
from fit_processes import TINY
from PIL import Image

from contagg.cli import main

GATE = "model.stages.3.blocks.0.aggregation.affinity.gate"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of a network of 30,000 parameters on 100 digits."""
    folder = tmp_path_factory.mktemp("epochs")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(TINY))
    options = ["--optimization.epochs", "2", "--run.checkpoint_minutes", "60", "--run.loggers", "[]"]
    main(["fit", "-c", str(folder / "recipe.yaml"), "--run.folder", str(folder / "a run"), *options])
    Image.effect_noise((16, 16), 90).save(folder / "digit.png")
    return folder / "a run"


def gates(run: Path) -> list[tuple[float, float]]:
    """alpha and beta of the last block after each epoch, read from the files themselves."""
    states = [torch.load(path, weights_only=False) for path in sorted((run / "checkpoints").glob("*.ckpt"))]
    weights = [state["state_dict"] for state in states]
    return [(float(each[f"{GATE}.alpha"]), float(each[f"{GATE}.beta"])) for each in weights]


def test_statistics_over_epochs_are_those_of_their_states(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = run.parent / "s.csv"
    options = ["--data", str(run.parent / "digit.png"), "--csv", str(table), "--out", str(run.parent / "s.png")]
    main(["inspect", "statistics", str(run), "--epochs", "1,2", *options])
    printed = capsys.readouterr().out
    assert "\nepoch 1  stage 1, block 1" in printed and "\nepoch 2  stage 4, block 1" in printed
    assert "random weights" not in printed
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    shares = {row["model"]: float(row["mean"]) for row in rows if row["measure"] == "alpha"}
    expected = [abs(alpha) / (abs(alpha) + abs(beta)) for alpha, beta in gates(run)]
    assert list(shares) == ["epoch 1", "epoch 2"] and list(shares.values()) == pytest.approx(expected, abs=1e-6)
    assert abs(expected[0] - expected[1]) > 1e-5  # it has learnt in between


def test_a_page_of_epochs_holds_each_one_s_weights(run: Path) -> None:
    page, numbers = run.parent / "page.html", run.parent / "page.json"
    options = ["--fields", "0", "-o", str(page), "--json", str(numbers)]
    main(["inspect", "explore", str(run), str(run.parent / "digit.png"), "--epochs", "1,2", *options])
    models = json.loads(numbers.read_text())
    assert [model["model"] for model in models] == ["a run, epoch 1", "a run, epoch 2"]
    for model, (alpha, beta) in zip(models, gates(run), strict=True):
        weights = model["layers"][-1]["weights"]
        assert weights["dynamic"] == pytest.approx([alpha]) and weights["static"] == pytest.approx([beta])


@pytest.mark.parametrize("command", ["statistics", "explore"])
def test_an_epoch_that_was_not_kept_is_named(run: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    image = str(run.parent / "digit.png")
    with pytest.raises(SystemExit):
        main(["inspect", command, str(run), *(["--data"] if command == "statistics" else []), image, "--epochs", "1,9"])
    assert "holds no epoch 9, but 1, 2; --run.keep_last N keeps more" in capsys.readouterr().err
