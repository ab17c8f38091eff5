"""Thousands of damaged and hostile files: each is answered or refused in one line, and nothing else happens.

Run whole with `-m slow`; a hundred of each kind run always. A failure names its seed.
"""

import argparse
import copy
import io
import json
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from watching import answer, mangled, mutated

import contagg
from contagg.checkpoints.fitting import init_weights
from contagg.checkpoints.models import open_model
from contagg.checkpoints.weights import save_weights
from contagg.classification.predict import predict
from contagg.data.coco.annotations import read_annotations
from contagg.detection.config import DetectorConfig
from contagg.detection.detectors import build_detector, features_of
from contagg.detection.initial import init_detector
from contagg.detection.saved import load_detector
from contagg.tasks import recipes
from contagg.training.recipe_file import read_recipe

COUNTS = [100, pytest.param(2000, marks=pytest.mark.slow)]
RECIPES = Path(__file__).parents[2] / "recipes"
SMALL = {"embed_dims": [8, 8, 16, 32], "depths": [1, 1, 1, 1], "num_classes": 3}
DETECTOR = {"detector": "retinanet", "backbone": "container_light_tiny", "pyramid_channels": 8, "drop_path": 0.0}

Call = Callable[[Path], object]


def each(count: int, kind: str) -> Iterator[tuple[str, random.Random]]:
    for number in range(count):
        seed = f"{kind} {number}"
        yield seed, random.Random(seed)


def check(refused: list[str], count: int) -> None:
    """Both outcomes occur: a harness that refuses all, or takes all, shows nothing."""
    assert 0.05 * count < len([line for line in refused if line]) < count


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "given").mkdir()
    monkeypatch.chdir(tmp_path / "given")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    return tmp_path / "given"


def use(path: Path) -> None:
    image = path.with_suffix(".png")
    predict(
        argparse.Namespace(
            images=[str(image)], checkpoint=str(path), device="cpu", batch_size=1, workers=0, output="csv", top_k=2
        )
    )


@pytest.mark.parametrize("count", COUNTS)
def test_descriptions_in_weights_files(here: Path, count: int) -> None:
    model, fresh = (contagg.create("container_light_tiny", **SMALL) for _ in range(2))
    description = {
        "task": "classification",
        "model": {"name": "container_light_tiny", "options": SMALL},
        "class_names": ["a", "b", "c"],
        "preprocessing": {
            "input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3,
            "crop": "resized", "crop_fraction": 1.0, "interpolation": "bilinear",
        },
        "metrics": {"accuracy": 0.5},
    }  # fmt: skip
    state, path, refused = model.state_dict(), here / "stranger.safetensors", []
    Image.new("RGB", (40, 30), "teal").save(path.with_suffix(".png"))
    for case, source in each(count, "description"):
        save_weights(path, state, mutated(copy.deepcopy(description), source))
        refused.append(answer(case, here, lambda: use(path)))
        answer(case, here, lambda: init_weights(fresh, str(path), class_names=["a", "b", "c"]))
        there = {entry.name for entry in here.parent.rglob("*")}
        assert there == {"given", "stranger.png", "stranger.safetensors"}, case
    check(refused, count)


@pytest.mark.parametrize("count", COUNTS)
def test_descriptions_of_detectors(here: Path, count: int) -> None:
    detector = build_detector(DetectorConfig(**DETECTOR, norm="train"), 2)
    description = {
        "task": "detection",
        "detector": DETECTOR | {"options": {}, "detr": {"queries": 5}, "anchor_size": 8},
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "class_names": ["a", "b"],
        "resizing": {"short_sides": [64], "long_side": 96},
    }
    state, path, refused = detector.state_dict(), here / "stranger.safetensors", []
    for case, source in each(count // 4, "detector"):
        save_weights(path, state, mutated(copy.deepcopy(description), source))
        refused.append(answer(case, here, lambda: load_detector(path)))
        answer(case, here, lambda: init_detector(detector, features_of(detector), str(path), class_names=["a", "b"]))
    check(refused, count // 4)


def pickled(content: Any, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def rezipped(content: bytes, source: random.Random) -> bytes:
    """torch's archive with its pickle mangled and its checksums right, so that the pickle is what is met."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            body = old.read(entry)
            new.writestr(entry.filename, mangled(body, source) if entry.filename.endswith("data.pkl") else body)
    return made.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("count", COUNTS)
def test_pickled_weights(here: Path, count: int) -> None:
    model, fresh = (contagg.create("container_light_tiny", **SMALL) for _ in range(2))
    detector = build_detector(DetectorConfig(**DETECTOR, norm="train"), 2)
    content = {"model": model.state_dict(), "model_ema": model.state_dict(), "epoch": 3, "lr": 0.1}
    files = [pickled(content), pickled(content, legacy=True)]
    uses: list[Call] = [
        lambda path: init_weights(fresh, str(path), class_names=["a", "b", "c"]),
        lambda path: init_detector(detector, features_of(detector), str(path)),
        lambda path: open_model("container_light_tiny", str(path)),
    ]
    path, refused = here / "stranger.pth", []
    for case, source in each(count, "pickle"):
        which = source.randrange(3)
        path.write_bytes(rezipped(files[0], source) if which == 2 else mangled(files[which], source))
        call = source.choice(uses)
        refused.append(answer(case, here, lambda call=call: call(path)))
    check(refused, count)


@pytest.mark.parametrize("count", COUNTS)
def test_recipes(here: Path, count: int) -> None:
    known = recipes()
    texts = [
        (RECIPES / name).read_text()
        for name in ("fashion_mnist/container_light_tiny.yaml", "composed/mask_rcnn.yaml", "dino/fashion_mnist.yaml")
    ]
    path, refused = here / "recipe.yaml", []
    for case, source in each(count, "recipe"):
        text = source.choice(texts)
        if source.random() < 0.5:
            content = yaml.safe_dump(mutated(yaml.safe_load(text), source), allow_unicode=source.random() < 0.5)
            path.write_bytes(content.encode("utf-8", "surrogatepass"))
        else:
            path.write_bytes(mangled(text.encode(), source))
        refused.append(answer(case, here, lambda: read_recipe(["-c", str(path)], known)))
    check(refused, count)


@pytest.mark.parametrize("count", COUNTS)
def test_annotations(here: Path, count: int) -> None:
    for number in (1, 2):
        Image.new("RGB", (40, 30)).save(here / f"{number}.png")
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 40, "height": 30} for n in (1, 2)],
        "categories": [{"id": 1, "name": "a"}, {"id": 5, "name": "b"}],
        "annotations": [
            {
                "id": number, "image_id": 1 + number % 2, "category_id": 5, "bbox": [1, 2, 10, 12], "area": 60,
                "iscrowd": 0, "segmentation": [[1, 2, 11, 2, 11, 14, 1, 14]],
            }
            for number in range(4)
        ],
    }  # fmt: skip
    path, refused = here / "instances.json", []
    for case, source in each(count, "annotations"):
        if source.random() < 0.7:
            path.write_text(json.dumps(mutated(copy.deepcopy(content), source)))
        else:
            path.write_bytes(mangled(json.dumps(content).encode(), source))
        refused.append(answer(case, here, lambda: read_annotations(path, here, needs_masks=True)))
    check(refused, count)
