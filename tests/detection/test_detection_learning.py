"""Slow: a detector learns sixteen images by heart, and nothing where labels mean nothing."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from contagg.cli import main
from contagg.detection.compose import Composition, write_split

MEMORIZED = Composition(source="digits", size=128, classes=4, seed=1)


def repeated(folder: Path, copies: int) -> None:
    """Let the training JSON name each of its images `copies` times, so that an epoch has many steps."""
    path = folder / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    images, annotations = content["images"], content["annotations"]
    (folder / "annotations/once.json").write_text(json.dumps(content))
    content["images"] = [image | {"id": image["id"] + 10_000_000 * copy} for copy in range(copies) for image in images]
    content["annotations"] = [
        entry | {"id": entry["id"] + 10_000_000 * copy, "image_id": entry["image_id"] + 10_000_000 * copy}
        for copy in range(copies)
        for entry in annotations
    ]
    path.write_text(json.dumps(content))


def shuffled(folder: Path) -> None:
    """Give the training annotations each other's categories, anew for every copy."""
    path = folder / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    ids = [entry["category_id"] for entry in content["annotations"]]
    for entry, category in zip(content["annotations"], np.random.default_rng(0).permutation(ids).tolist(), strict=True):
        entry["category_id"] = category
    path.write_text(json.dumps(content))


def trained(folder: Path, detector: str, epochs: int) -> dict[str, float]:
    recipe = {
        "task": "detection",
        "model": {
            "detector": detector, "backbone": "container_light_tiny", "norm": "train", "pyramid_channels": 64,
            "anchor_size": 16, "proposals": 100, "sampled_proposals": 32, "drop_path": 0.0,
        },
        "data": {
            "root": str(folder), "validation_images": "train2017", "validation_annotations": "annotations/once.json",
        },
        "augmentation": {"short_sides": [128], "long_side": 128, "horizontal_flip": 0.0},
        "optimization": {
            "epochs": epochs, "batch_size": 8, "learning_rate": 2e-3, "drop_epochs": [epochs - 1], "warmup_steps": 20,
        },
        "run": {"folder": str(folder / "run"), "accelerator": "cpu", "workers": 0},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    main(["fit", "-c", str(folder / "recipe.yaml")])
    rows = list(csv.DictReader((folder / "run/metrics.csv").open()))
    return {name: float(value) for name, value in rows[-1].items()}


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["retinanet", "mask_rcnn"])
def test_sixteen_images_are_learnt_by_heart(detector: str, tmp_path: Path) -> None:
    write_split(MEMORIZED, tmp_path, "train", 16, workers=0)
    repeated(tmp_path, copies=30)
    last = trained(tmp_path, detector, epochs=10)
    assert last["box_ap50"] > 0.9
    if detector == "mask_rcnn":
        assert last["mask_ap50"] > 0.9


@pytest.mark.slow
def test_shuffled_labels_teach_nothing(tmp_path: Path) -> None:
    write_split(MEMORIZED, tmp_path, "train", 16, workers=0)
    repeated(tmp_path, copies=30)
    shuffled(tmp_path)
    assert trained(tmp_path, "retinanet", epochs=10)["box_ap50"] < 0.35
