"""Slow: a detector learns sixteen images by heart, and nothing where annotations mean nothing."""

import csv
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from contagg.cli import main
from tools.compose_coco import Composition, write_split

MEMORIZED = Composition(source="digits", size=128, classes=4, seed=1)
COPIES = 30
"""Of each image in the training JSON, so that an epoch has many steps."""

Change = Callable[[dict, int], dict]
"""Other content of a JSON of COCO's form for the copy of a number."""


def as_it_is(content: dict, copy: int) -> dict:
    return content


def categories_shuffled(content: dict, copy: int) -> dict:
    """Annotations with each other's categories, other ones in every copy."""
    ids = np.random.default_rng(copy).permutation([entry["category_id"] for entry in content["annotations"]]).tolist()
    shuffled = [entry | {"category_id": category} for entry, category in zip(content["annotations"], ids, strict=True)]
    return content | {"annotations": shuffled}


def annotations_exchanged(content: dict, copy: int) -> dict:
    """Each image with the annotations of another of its size, another one in every copy."""
    of_size = defaultdict(list)
    for image in content["images"]:
        of_size[image["height"], image["width"]].append(image["id"])
    other = {}
    for ids in of_size.values():
        assert len(ids) > 1
        shift = 1 + copy % (len(ids) - 1)
        other |= dict(zip(ids, ids[shift:] + ids[:shift], strict=True))
    exchanged = [entry | {"image_id": other[entry["image_id"]]} for entry in content["annotations"]]
    return content | {"annotations": exchanged}


def sixteen_images(folder: Path, change: Change) -> None:
    """`once.json` names them as they are; the training JSON `COPIES` times with the change."""
    content = write_split(MEMORIZED, folder, "train", 16, workers=0)
    (folder / "annotations/once.json").write_text(json.dumps(content))
    images, annotations = [], []
    for copy in range(COPIES):
        changed, first = change(content, copy), 10_000_000 * copy
        images += [image | {"id": first + image["id"]} for image in changed["images"]]
        annotations += [
            entry | {"id": first + entry["id"], "image_id": first + entry["image_id"]}
            for entry in changed["annotations"]
        ]
    repeated = content | {"images": images, "annotations": annotations}
    (folder / "annotations/instances_train2017.json").write_text(json.dumps(repeated))


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
            "epochs": epochs, "batch_size": 8, "lr": 1e-3, "milestones": [epochs - 1], "warmup_steps": 20,
        },
        "run": {"folder": str(folder / "run"), "accelerator": "cpu", "workers": 0},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    main(["fit", "-c", str(folder / "recipe.yaml")])
    rows = list(csv.DictReader((folder / "run/metrics.csv").open()))
    return {name: float(value) for name, value in rows[-1].items()}


@pytest.mark.slow
@pytest.mark.parametrize(("detector", "epochs"), [("retinanet", 3), ("mask_rcnn", 3)])
def test_sixteen_images_are_learnt_by_heart(detector: str, epochs: int, tmp_path: Path) -> None:
    """180 steps of 8 images."""
    sixteen_images(tmp_path, as_it_is)
    last = trained(tmp_path, detector, epochs)
    assert last["box_ap50"] > 0.9
    if detector == "mask_rcnn":
        assert last["mask_ap50"] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "highest"),
    [
        (annotations_exchanged, 0.05),
        # The boxes are right, and a guess among four classes as well in a quarter of the cases.
        (categories_shuffled, 0.35),
    ],
)
def test_annotations_without_meaning_teach_nothing(change: Change, highest: float, tmp_path: Path) -> None:
    sixteen_images(tmp_path, change)
    assert trained(tmp_path, "retinanet", epochs=3)["box_ap50"] < highest
