"""The same command, data and prediction as the other detectors; DETR's augmentation; what is refused."""

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml
from torchvision import tv_tensors

from contagg.cli import main
from contagg.data.coco.config import ResizingConfig
from contagg.data.coco.dataset import training_transform
from contagg.errors import UserError


def recipe(data: Path, folder: Path, detector: str) -> str:
    content = {
        "task": "detection",
        "model": {
            "detector": detector, "backbone": "container_light_tiny", "norm": "train",
            "detr": {
                "queries": 9, "stride": 16, "width": 32, "heads": 4, "encoder_layers": 1, "decoder_layers": 2,
                "feedforward": 16, "class_loss": "cross_entropy" if detector == "detr" else "focal",
            },
        },
        "data": {"root": str(data)},
        "augmentation": {
            "short_sides": [48, 64], "long_side": 96, "crop": 0.5, "crop_short_sides": [64], "crop_sides": [40, 60],
        },
        "optimization": {
            "epochs": 2, "batch_size": 10, "milestones": [1], "warmup_steps": 0, "backbone_lr_multiplier": 0.1,
            "sampling_lr_multiplier": 0.1 if detector == "deformable_detr" else 1.0, "weight_decay_for": "all",
            "weight_decay": 1e-4, "max_grad_norm": 0.1,
        },
        "run": {"folder": str(folder), "accelerator": "cpu", "workers": 0},
    }  # fmt: skip
    path = folder.parent / f"{detector}.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.mark.parametrize("detector", ["smca_detr", "deformable_detr"])
def test_fit_validate_predict(detector: str, composed: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = tmp_path / "run"
    main(["fit", "-c", recipe(composed, run, detector)])
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert len(rows) == 2 and {"train_loss_class", "train_loss_box", "train_loss_giou", "box_ap50"} <= set(rows[0])
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx([1e-4, 1e-5])
    scores = json.loads((run / "figures/scores.json").read_text())
    main(["validate", str(run), "--device", "cpu", "--output", str(tmp_path / "scored")])
    assert json.loads((tmp_path / "scored/scores.json").read_text()) == pytest.approx(scores)
    image = next((composed / "val2017").glob("*.jpg"))
    main(["predict", str(run), str(image), "--score", "0.0", "--device", "cpu", "--folder", str(tmp_path / "found")])
    entries = json.loads((tmp_path / "found/box_results.json").read_text())
    assert len(entries) == (9 if detector == "smca_detr" else 36)
    assert {"image_id", "category_id", "score", "bbox"} == set(entries[0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.detr.queries", "2"], "objects, but model.detr.queries is 2: raise it"),
        (["--model.detr.width", "30"], "model.detr.width 30 must be a multiple of 4"),
        (["--model.detr.querys", "2"], "unknown option --model.detr.querys. Did you mean 'model.detr.queries'"),
        (["--model.backbone", "vit_tiny_patch16_224"], "has features at strides [16, 16, 16]"),
        (["--model.backbone", "swin_tiny_patch4_window7_224"], "swin_tiny_patch4_window7_224' takes no images of 64 x"),
        (["--augmentation.crop", "1.5"], "augmentation.crop must lie in [0, 1], not 1.5"),
        (["--augmentation.crop_sides", "[60, 40]"], "augmentation.crop_sides must ascend, not [60, 40]"),
        (["--optimization.lr", "1e20"], "became"),
    ],
)
def test_what_cannot_be_trained_is_told_in_one_line(
    words: list[str], message: str, composed: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    if words[0] == "--model.backbone":
        words = [*words, "--model.detr.stride", "32"]
    with pytest.raises(SystemExit) as leaving:
        main(["fit", "-c", recipe(composed, tmp_path / "run", "smca_detr"), *words])
    told = capsys.readouterr().err
    assert leaving.value.code == 2 and message in told and "Traceback" not in told


def test_boxes_as_fractions_are_told_before_training(
    composed: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """They would all be dropped as thinner than a pixel, and a run would learn that images hold nothing."""
    path = composed / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation["bbox"] = [value / 96 for value in annotation["bbox"]]
    other = tmp_path / "fractions.json"
    other.write_text(json.dumps(content))
    with pytest.raises(SystemExit):
        main(["fit", "-c", recipe(composed, tmp_path / "run", "smca_detr"), "--data.train_annotations", str(other)])
    assert f"{other}: no box reaches beyond the first pixel" in capsys.readouterr().err


def test_parts_are_cut_with_their_boxes() -> None:
    """A white object's box stays where the white is; one that is cut away goes, with its label."""
    config = ResizingConfig(
        short_sides=(64,), long_side=200, crop=1.0, crop_short_sides=(90, 120), crop_sides=(40, 70), horizontal_flip=0.5
    )
    transform = training_transform(config)
    image = torch.zeros(3, 100, 130, dtype=torch.uint8)
    image[:, 40:71, 20:61], image[:, 40:71, 90:115] = 255, 128
    boxes = tv_tensors.BoundingBoxes([[20.0, 40, 61, 71], [90, 40, 115, 71]], format="XYXY", canvas_size=(100, 130))
    counts, checked = set(), 0
    for seed in range(40):
        torch.manual_seed(seed)
        given = {"boxes": boxes, "labels": torch.tensor([1, 0]), "image_id": 3}
        cut, target = transform(tv_tensors.Image(image), given)
        assert min(cut.shape[1:]) == 64 or max(cut.shape[1:]) == 200
        counts.add(len(target["boxes"]))
        assert target["labels"].shape == target["boxes"].shape[:1]
        for (left, top, right, bottom), label in zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True):
            if label == 1 and min(right - left, bottom - top) > 4:
                rows, columns = ((cut[0] > 190).any(axis).nonzero()[:, 0] for axis in (1, 0))
                seen = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
                assert [left, top, right, bottom] == pytest.approx([float(value) for value in seen], abs=1.5)
                checked += 1
    assert {1, 2} <= counts and checked > 20


def test_a_part_of_a_small_image_is_no_larger() -> None:
    config = ResizingConfig(short_sides=(64,), long_side=200, crop=1.0, crop_short_sides=(40,), crop_sides=(50, 60))
    empty = {
        "boxes": tv_tensors.BoundingBoxes(torch.zeros(0, 4), format="XYXY", canvas_size=(40, 40)),
        "labels": torch.zeros(0),
    }
    cut, _ = training_transform(config)(tv_tensors.Image(torch.zeros(3, 40, 40, dtype=torch.uint8)), empty)
    assert cut.shape == (3, 64, 64)
    with pytest.raises(UserError, match=r"augmentation.crop_short_sides must not be empty, not \[\]"):
        ResizingConfig(crop_short_sides=())
