"""A detector from recipe to pictures, as a person would use it, and what is told when that cannot be."""

import contextlib
import csv
import dataclasses
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pycocotools import mask
from pycocotools.coco import COCO

from contagg import create
from contagg.checkpoints.weights import read_weights, save_weights
from contagg.cli import main
from contagg.data.coco.config import CocoDataConfig
from contagg.detection.backbone import Features
from contagg.detection.config import DETECTION_DEFAULTS, DetectorConfig
from contagg.detection.detr.config import SetConfig
from contagg.detection.fit import open_splits
from contagg.detection.initial import init_detector
from contagg.errors import UserError
from contagg.training.schedules import Schedules


def recipe(data: Path, folder: Path, detector: str = "mask_rcnn") -> dict:
    return {
        "task": "detection",
        "model": {
            "detector": detector, "backbone": "container_light_tiny", "norm": "train", "pyramid_channels": 8,
            "anchor_size": 16, "proposals": 20, "sampled_proposals": 8, "drop_path": 0.0,
        },
        "data": {"root": str(data)},
        "augmentation": {"short_sides": [64], "long_side": 96},
        "optimization": {"epochs": 1, "batch_size": 5, "milestones": [], "warmup_steps": 2},
        "run": {"folder": str(folder), "accelerator": "cpu", "workers": 0},
    }  # fmt: skip


def written(content: dict, folder: Path) -> str:
    path = folder / "recipe_given.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_fit_validate_predict(composed: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = tmp_path / "run"
    main(["fit", "-c", written(recipe(composed, run), tmp_path)])
    (row,) = csv.DictReader((run / "metrics.csv").open())
    assert {"train_loss", "train_loss_mask", "box_ap", "box_ap50", "mask_ap50"} <= set(row)
    for name in ("curves.png", "predictions.png"):
        assert Image.open(run / "figures" / name).size[0] > 300
    scores = json.loads((run / "figures/scores.json").read_text())
    assert len([name for name in scores if "/" not in name]) == 24
    assert {name for name in scores if "/" in name} == {f"{kind}_ap/{n}" for kind in ("box", "mask") for n in range(4)}
    assert float(row["box_ap/3"]) == pytest.approx(scores["box_ap/3"])
    _, metadata = read_weights(run / "checkpoints/best.safetensors")
    assert metadata["task"] == "detection" and len(metadata["categories"]) == 4

    capsys.readouterr()
    main(["validate", str(run), "--device", "cpu", "--output", str(tmp_path / "scored")])
    assert "ap50" in capsys.readouterr().out
    assert json.loads((tmp_path / "scored/scores.json").read_text()) == pytest.approx(scores)

    image = next((composed / "val2017").glob("*.jpg"))
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(image.read_bytes()[:200])
    words = [str(run), str(broken), str(image), "--score", "0.0", "--device", "cpu"]
    main(["predict", *words, "--folder", str(tmp_path / "found")])
    assert "broken.jpg" not in capsys.readouterr().out
    boxes, masks = (json.loads((tmp_path / f"found/{kind}_results.json").read_text()) for kind in ("box", "mask"))
    assert boxes and {"image_id", "category_id", "score", "bbox"} == set(boxes[0])
    assert len(masks) == len(boxes) and {"image_id", "category_id", "score", "segmentation"} == set(masks[0])
    width, height = Image.open(image).size
    assert masks[0]["segmentation"]["size"] == [height, width]
    with contextlib.redirect_stdout(io.StringIO()):
        found = COCO(composed / "annotations/instances_val2017.json")
        known = [entry | {"image_id": int(image.stem)} for entry in masks]
        areas = [entry["area"] for entry in found.loadRes(known).dataset["annotations"]]
    assert areas == [int(mask.area(entry["segmentation"])) for entry in masks]  # not that of the boxes
    listed = json.loads((tmp_path / "found/images.json").read_text())
    assert listed["images"] == [{"id": 0, "file_name": str(image), "height": height, "width": width}]
    assert len(list((tmp_path / "found").glob("*.png"))) == 1

    main(["predict", *words, "--output", "csv"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == len(boxes) and rows[0]["image"] == str(image)
    assert float(rows[0]["left"]) == pytest.approx(boxes[0]["bbox"][0], abs=0.01)
    main(["predict", *words, "--output", "json"])
    assert len(json.loads(capsys.readouterr().out)) == len(boxes)
    main(["predict", *words, "--score", "0.999", "--folder", str(tmp_path / "none")])
    assert re.search(r"jpg: nothing at 0.999 or more; the best is \d+ \d+ %", capsys.readouterr().out)
    assert "none of the 1 images can be read" in refused(["predict", str(run), str(broken)], capsys)


def test_an_image_that_cannot_be_read_ends_no_run(
    composed: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """It is left out of training and scores; and validation may be rarer than epochs."""
    data = tmp_path / "data"
    shutil.copytree(composed, data)
    for split in ("train2017", "val2017"):
        first = sorted((data / split).iterdir())[0]
        first.write_bytes(first.read_bytes()[:100])
    content = recipe(data, tmp_path / "run", "retinanet") | {"validate_every": 2}
    content["data"]["max_corrupt_fraction"] = 0.1
    content["optimization"]["epochs"] = 2
    main(["fit", "-c", written(content, tmp_path)])
    rows = list(csv.DictReader((tmp_path / "run/metrics.csv").open()))
    assert [bool(row["box_ap"]) for row in rows] == [False, True]
    scores = json.loads((tmp_path / "run/figures/scores.json").read_text())
    assert float(rows[1]["box_ap50"]) == pytest.approx(scores["box_ap50"])
    capsys.readouterr()
    main(["validate", str(tmp_path / "run"), "--device", "cpu"])
    said = capsys.readouterr().out
    assert (
        "on 10 images" in said and "1 more could not be read" in said and re.search(r"^ap/3 +box", said, re.MULTILINE)
    )
    words = ["--data.max_corrupt_fraction", "0.01", "--run.folder", str(tmp_path / "strict")]
    assert "images cannot be read, more than data.max_corrupt_fraction 0.01" in refused(
        ["fit", "-c", written(content, tmp_path), *words], capsys
    )


def refused(words: list[str], capsys: pytest.CaptureFixture) -> str:
    with pytest.raises(SystemExit) as leaving:
        main(words)
    assert leaving.value.code == 2
    return capsys.readouterr().err


def test_data_that_a_detector_cannot_be_judged_by_are_named(
    composed: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    content = recipe(composed, tmp_path / "run", "retinanet")
    content["optimization"] |= {"batch_size": 30, "warmup_steps": 0}
    main(["fit", "-c", written(content, tmp_path)])
    other = json.loads((composed / "annotations/instances_val2017.json").read_text())
    path = tmp_path / "other.json"
    path.write_text(json.dumps(other | {"categories": [*other["categories"], {"id": 91, "name": "more"}]}))
    words = ["validate", str(tmp_path / "run"), "--data.annotations", str(path)]
    message = refused(words, capsys)
    assert "finds 4 categories and the data declare 5: 91 'more' is only in the data" in message
    other["categories"][1]["name"] = "seven"
    path.write_text(json.dumps(other))
    assert "3 is '1' in the file and 'seven' in the data" in refused(words, capsys)
    other["categories"][1]["name"] = "1"
    path.write_text(json.dumps(other | {"annotations": []}))
    assert "other.json has no annotation that can be used" in refused(words, capsys)


def test_training_images_in_the_validation_set_are_told(composed: Path, capsys: pytest.CaptureFixture) -> None:
    data = CocoDataConfig(root=str(composed))
    open_splits(data, masks=False)
    assert capsys.readouterr().out == ""
    train = {"validation_images": data.train_images, "validation_annotations": data.train_annotations}
    open_splits(dataclasses.replace(data, **train), masks=False)
    assert "warning: 30 of 30 validation images are training images" in capsys.readouterr().out


def test_splits_whose_categories_differ_are_named_by_which(composed: Path, tmp_path: Path) -> None:
    content = json.loads((composed / "annotations/instances_val2017.json").read_text())
    content["categories"][1]["name"] = "seven"
    path = tmp_path / "other.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"differ: 3 is '1' in training and 'seven' in validation"):
        open_splits(CocoDataConfig(root=str(composed), validation_annotations=str(path)), masks=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.norm", "frozen"], "model.norm is frozen, but there is nothing to freeze"),
        (["--model.backbone", "vit_tiny_patch16_224"], "has features at strides [16, 16, 16]"),
        (["--model.detector", "yolo"], "model.detector must be one of retinanet, mask_rcnn"),
        (["--optimization.warmup_steps", "6"], "warmup_steps 6 must be below the 6 steps of the run"),
        (["--optimization.batch_size", "31"], "30 training images are fewer than a batch of 31"),
        (["--data.root", "gone"], "data.root: there is no file or folder 'gone'"),
        (["--model.init_weights", "gone.pth"], "'gone.pth'"),
        (["--optimization.milestones", "[3]"], "milestones must be below optimization.epochs (1), not [3.0]"),
        (["--augmentation.long_side", "50"], "long_side 50 must not be below short_sides [64]"),
        (["--validate_every", "2"], "validate_every 2 must divide optimization.epochs 1"),
        (["--model.detections_per_image", "0"], "model.detections_per_image must be at least 1, not 0"),
        (["--data.clip_boxes", "-1"], "data.clip_boxes must be at least 0"),
        (["--model.anchor_sise", "8"], "unknown option --model.anchor_sise. Did you mean 'model.anchor_size'"),
        (["--optimization.lr", "1e20", "--optimization.epochs", "3"], "became"),
    ],
)
def test_what_cannot_be_trained_is_told_in_one_line(
    words: list[str], message: str, composed: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = written(recipe(composed, tmp_path / "run", "retinanet"), tmp_path)
    told = refused(["fit", "-c", path, *words], capsys)
    assert message in told and "Traceback" not in told


def test_a_backbone_from_a_classifiers_file_says_what_was_left(tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = create("container_light_tiny", num_classes=5)
    path = tmp_path / "classifier.safetensors"
    save_weights(path, classifier.state_dict(), {})
    features = Features("container_light_tiny", (8, 16, 32), frozen=True)
    message = init_detector(features, features, str(path))
    assert "132 of 132 tensors loaded" in message and "not used: head.fc.bias, head.fc.weight" in message
    classifier.eval(), features.eval()
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(
            features(images), classifier.forward_intermediates(images, [1, 2, 3], intermediates_only=True)
        )


def test_timms_flattened_names_are_found(tmp_path: Path) -> None:
    """timm renames stages_0 where it takes features; the file has stages.0."""
    classifier = create("convnext_atto", num_classes=5)
    path = tmp_path / "timm.safetensors"
    save_weights(path, classifier.state_dict(), {})
    features = Features("convnext_atto", (4, 8, 16, 32), frozen=False)
    wanted = len(features.body.state_dict())
    assert f"{wanted} of {wanted} tensors loaded" in init_detector(features, features, str(path))


def test_weights_of_another_network_are_named(tmp_path: Path) -> None:
    features = Features("container_light_tiny", (8, 16, 32), frozen=False)
    path = tmp_path / "other.safetensors"
    save_weights(path, create("resnet18").state_dict(), {})
    with pytest.raises(UserError, match="none of its 122 tensors is one of the backbone's"):
        init_detector(features, features, str(path))
    save_weights(path, create("container_light").state_dict(), {})
    with pytest.raises(UserError, match=r"stages.0.embedding.projection.weight is \(64, 3, 4, 4\) there and \(32"):
        init_detector(features, features, str(path))


def test_the_schedule_is_the_papers() -> None:
    """500 steps of warm-up, a tenth after epochs 8 and 11 of 12."""
    schedules = Schedules(config=DETECTION_DEFAULTS, peak_lr=DETECTION_DEFAULTS.peak_lr(8), steps_per_epoch=1000)
    rates = {step: schedules.lr(step) / 1e-4 for step in (0, 250, 499, 500, 7999, 8000, 10999, 11000)}
    assert rates == pytest.approx(
        {0: 0.001, 250: 0.5005, 499: 0.998002, 500: 1, 7999: 1, 8000: 0.1, 10999: 0.1, 11000: 0.01}
    )


def test_frozen_detectors_come_back_from_their_files(tmp_path: Path) -> None:
    from contagg.data.coco.annotations import Category
    from contagg.data.coco.config import ResizingConfig
    from contagg.detection.detectors import build_detector
    from contagg.detection.saved import describe, load_detector

    config = DetectorConfig(
        detector="retinanet", backbone="container_light_tiny", init_weights="x", pyramid_channels=8, norm="frozen"
    )
    model = build_detector(config, 2).eval()
    path = tmp_path / "model.safetensors"
    categories = (Category(3, "a"), Category(8, "b"))
    save_weights(path, model.state_dict(), describe(config, categories, ResizingConfig(short_sides=(64,)), 12))
    saved = load_detector(path)
    assert saved.categories == categories and saved.bit_depth == 12 and saved.resizing.short_sides == (64,)
    assert all(torch.equal(value, saved.model.state_dict()[name]) for name, value in model.state_dict().items())
    save_weights(path, model.state_dict(), describe(config, categories, ResizingConfig(), 99))
    with pytest.raises(UserError, match=r"data\.bit_depth must"):
        load_detector(path)
    save_weights(path, model.state_dict(), {"task": "classification"})
    with pytest.raises(UserError, match="is of the task 'classification', not of a detector"):
        load_detector(path)


@pytest.fixture
def odd_detector(tmp_path: Path) -> Callable[..., Path]:
    """Makes the file of an untrained detector, which says of itself what is given."""
    from contagg.data.coco.annotations import Category
    from contagg.data.coco.config import ResizingConfig
    from contagg.detection.detectors import build_detector
    from contagg.detection.saved import describe

    config = DetectorConfig(detector="retinanet", backbone="container_light_tiny", pyramid_channels=8, norm="train")
    said = describe(config, (Category(3, "a"),), ResizingConfig(short_sides=(64,), long_side=64))

    def make(part: str = "detector", **changes: object) -> Path:
        changed = [changes] if part == "categories" else {**said[part], **changes}
        path = tmp_path / "model.safetensors"
        state = build_detector(config, 1).state_dict()
        state |= {name: torch.zeros_like(one) for name, one in state.items() if name.endswith("cls_logits.bias")}
        save_weights(path, state, said | {part: changed})  # and it is half sure of everything
        return path

    return make


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("detector", {"detections_per_image": 1.5}, "model.detections_per_image must be a whole number, not 1.5"),
        ("detector", {"checkpointing": "x"}, "model.checkpointing must be true or false, not x"),
        ("detector", {"detr": {"queries": "x"}}, "model.detr.queries must be a whole number, not x"),
        ("resizing", {"short_sides": [96.5], "long_side": 100}, "short_sides must be a whole number, not [96.5]"),
        ("resizing", {"short_sides": [10**4], "long_side": 10**4}, "images of up to 100,000,000 pixels"),
        ("categories", {"id": [1], "name": "a"}, "'id' must be a whole number of 64 bits, not [1]"),
        ("categories", {"id": 10**400, "name": "a"}, "'id' must be a whole number of 64 bits, not 1000"),
    ],
)
def test_what_a_detectors_file_says_is_of_its_type(
    odd_detector: Callable[..., Path], part: str, changes: dict, message: str
) -> None:
    from contagg.detection.saved import load_detector

    with pytest.raises(UserError) as error:
        load_detector(odd_detector(part, **changes))
    assert message in str(error.value)


@pytest.mark.parametrize("depth", [12, None])
def test_a_detector_reads_files_with_the_bit_depth_of_training(
    odd_detector: Callable[..., Path], tmp_path: Path, depth: int | None
) -> None:
    from contagg.data.decode import read_image
    from contagg.detection.predict import detect
    from contagg.detection.saved import load_detector

    path = tmp_path / "camera.png"
    Image.fromarray(np.linspace(0, 4095, 64 * 64).astype(np.uint16).reshape(64, 64)).save(path)
    saved = dataclasses.replace(load_detector(odd_detector()), bit_depth=depth)
    image, _ = detect(saved, path, torch.device("cpu"))
    assert np.array_equal(image[..., 0], np.asarray(read_image(path, "x", bit_depth=depth)))


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_names_of_files_are_printed_as_text(
    odd_detector: Callable[..., Path], tmp_path: Path, form: str,
    capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    path, folder = odd_detector(), tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (64, 64)).save(folder / f"red\x1b[31m\u202e{'x' * 230}.png")
    (folder / "broken\x1b[31m.png").write_text("x")
    main(["predict", str(path), str(folder), "--score", "0", "--output", form, "--folder", str(tmp_path / "found")])
    printed = capsys.readouterr().out + caplog.text
    assert all(line.isprintable() for line in printed.splitlines())
    assert r"red\x1b[31m\u202exxx" in printed.replace(r"\\", "\\") and r"broken\x1b[31m.png" in printed
    if form == "table":
        assert [file.name.isprintable() for file in (tmp_path / "found").iterdir()] == [True] * 3


def test_a_detector_written_before_the_words_changed_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contagg.data.coco.annotations import Category
    from contagg.data.coco.config import ResizingConfig
    from contagg.detection.detectors import build_detector
    from contagg.detection.saved import describe, load_detector

    options = {"embed_dims": (8, 8, 8, 32), "position": "cpe", "affinity": ["dwconv3"] * 3 + ["attention + dwconv3"]}
    config = DetectorConfig(
        detector="retinanet", backbone="container_tiny", norm="train", pyramid_channels=8, options=options,
        detr=SetConfig(queries=7),
    )  # fmt: skip
    model = build_detector(config, 2)
    said = describe(config, (Category(3, "a"), Category(8, "b")), ResizingConfig())
    del said["detector"]["init_weights"], said["detector"]["init_ema"], said["detector"]["detections_per_image"]
    was = {"widths": (8, 8, 8, 32), "position": "convolution", "affinity": ["conv3"] * 3 + ["attention + conv3"]}
    said["detector"] |= {"init_from": None, "options": was, "sets": said["detector"].pop("detr")}
    save_weights(tmp_path / "model.safetensors", model.state_dict(), said)
    described: list[DetectorConfig] = []
    monkeypatch.setattr(
        "contagg.detection.saved.build_detector",
        lambda config, _: described.append(config) or build_detector(config, 2),
    )
    saved = load_detector(tmp_path / "model.safetensors")
    assert described[0].detr.queries == 7
    assert all(torch.equal(value, saved.model.state_dict()[name]) for name, value in model.state_dict().items())
