"""Weights go into a package with what timm is to know of them, and with a card that says how good they are."""

from pathlib import Path

import numpy as np
import pytest
import torch

from contagg.checkpoints.weights import load_model, save_weights
from contagg.classification.evaluation import Evaluation
from contagg.errors import UserError
from contagg.models import create
from tools.package_weights import SOURCES, card, package

SIZES = {"embed_dims": [8, 8, 16, 32], "depths": [1, 1, 1, 1]}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    options = {"num_classes": 3, "in_chans": 3, "img_size": 32} | SIZES
    model = create("container_light_tiny", **options)
    metadata = {
        "task": "classification",
        "model": {"name": "container_light_tiny", "options": options},
        "class_names": ["ant", "bee", "cat"],
        "preprocessing": {
            "input_size": [3, 32, 32],
            "mean": [0.5, 0.5, 0.5],
            "std": [0.25, 0.25, 0.25],
            "crop": "resized",
            "crop_fraction": 0.875,
            "interpolation": "bicubic",
        },
        "metrics": {"accuracy": 0.5},
    }
    save_weights(tmp_path / "run/checkpoints/last.safetensors", model.state_dict(), metadata)
    (tmp_path / "run/recipe.yaml").write_text("optimization: {epochs: 17}\n")
    return tmp_path / "run"


def test_weights_and_what_they_are_of(run: Path, tmp_path: Path) -> None:
    path = package(run, "caltech101", tmp_path)
    assert path.name == "container_light_tiny.caltech101.safetensors" and path.with_suffix(".json").is_file()
    model, metadata = load_model(path)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(images), load_model(run / "checkpoints/last.safetensors")[0](images))
    assert "metrics" not in metadata and metadata["class_names"] == ["ant", "bee", "cat"]

    confusion = torch.tensor([[8, 2, 0], [0, 2, 2], [1, 0, 1]])
    found = Evaluation(
        images=16, skipped=0, scores={"accuracy": 11 / 16}, confusion=confusion, class_names=("ant", "bee", "cat")
    )
    text = card(path, run, found)
    mean = np.mean([0.8, 0.5, 0.5])
    assert "68.75 % of 16 held-out images" in text and f"{100 * mean:.2f} % in the mean over classes" in text
    assert "17 epochs" in text and SOURCES["caltech101"].url in text and "hold 2 to 10 of them" in text
    assert str(tmp_path) not in text


def test_what_cannot_be_packaged_is_answered(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="there is no source 'imagenet': known are caltech101"):
        package(run, "imagenet", tmp_path)
    monkeypatch.setattr("tools.package_weights.LARGEST", 10_000)
    with pytest.raises(UserError, match=r"a package may carry 0\.01 MB"):
        package(run, "caltech101", tmp_path)
