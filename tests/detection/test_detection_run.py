"""A detector from recipe to pictures, as a person would use it, and what is told when that cannot be."""

import contextlib
import csv
import dataclasses
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from contagg.checkpoints.weights import read_weights
from contagg.cli import main
from contagg.data.coco.config import CocoDataConfig
from contagg.detection.fit import open_splits
from contagg.errors import UserError


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


def test_fit_validate_predict(
    composed: Path, tmp_path: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
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

    only_csv = ["--output", "csv", "--annotations", str(broken)]
    assert "is for COCO's files, which --output csv does not write" in refused(["predict", *words, *only_csv], capsys)
    renumbered_files_can_be_scored(composed, run, tmp_path)

    assert "of an earlier call" not in caplog.text
    for name in ("007_before.png", "12.png", "mine.png"):
        (tmp_path / "found" / name).touch()
    main(["predict", *words, "--folder", str(tmp_path / "found")])
    assert "1 file is in" in caplog.text and "such as 007_before.png" in caplog.text
    capsys.readouterr()
    main(["predict", *words, "--output", "csv"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == len(boxes) and rows[0]["image"] == str(image)
    assert float(rows[0]["left"]) == pytest.approx(boxes[0]["bbox"][0], abs=0.01)
    main(["predict", *words, "--output", "json"])
    (listed,) = json.loads(capsys.readouterr().out)
    assert listed["image"] == str(image) and len(listed["objects"]) == len(boxes)
    for form, of_nothing in {
        "csv": f"image,class,score,left,top,width,height\n{image},,,,,,\n",
        "json": json.dumps([{"image": str(image), "objects": []}], indent=2) + "\n",
    }.items():  # and not a word of the image that cannot be read
        main(["predict", *words, "--score", "1", "--output", form])
        assert capsys.readouterr().out.replace("\r", "") == of_nothing
    main(["predict", *words, "--score", "0.999", "--folder", str(tmp_path / "none")])
    assert re.search(r"jpg: nothing at 0.999 or more; the best is \d+ \d+ %", capsys.readouterr().out)
    assert "none of 1 image can be read" in refused(["predict", str(run), str(broken)], capsys)


def renumbered_files_can_be_scored(composed: Path, run: Path, folder: Path) -> None:
    """What `predict --annotations` writes has the ids of a JSON, whatever they are, and pycocotools takes it."""
    truth = json.loads((composed / "annotations/instances_val2017.json").read_text())
    recalls = []
    for more in (0, 1000):
        for entry in [*truth["images"], *truth["categories"]]:
            entry["id"] += more
        for entry in truth["annotations"]:
            entry |= {"image_id": entry["image_id"] + more, "category_id": entry["category_id"] + more}
        (folder / "truth.json").write_text(json.dumps(truth))
        words = ["--annotations", str(folder / "truth.json"), "--score", "0", "--folder", str(folder / f"by {more}")]
        main(["predict", str(run), str(composed / "val2017"), *words, "--device", "cpu"])
        with contextlib.redirect_stdout(io.StringIO()):
            known = COCO(folder / "truth.json")
            found = known.loadRes(str(folder / f"by {more}" / "mask_results.json"))
            scored = COCOeval(known, found, "segm")
            scored.params.iouThrs = np.array([0.1])  # of what a few steps teach nothing is nearer
            scored.evaluate()
            scored.accumulate()
        recalls.append(scored.eval["recall"])
        listed = json.loads((folder / f"by {more}" / "images.json").read_text())
        assert {Path(one["file_name"]).name: one["id"] for one in listed["images"]} == {
            one["file_name"]: one["id"] for one in truth["images"]
        }
        assert {one["id"] for one in listed["categories"]} == {one["id"] for one in truth["categories"]}
    assert np.array_equal(*recalls) and recalls[0].max() > 0


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
    if "fewer than a batch" in message:
        assert not (tmp_path / "run").exists()  # before the network is built
