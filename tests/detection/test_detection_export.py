"""A detector's ONNX file finds in ONNX Runtime what the detector finds, with boxes in pixels and labels from 0."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from contagg.checkpoints.weights import save_weights
from contagg.cli import main
from contagg.data.coco.config import ResizingConfig
from contagg.data.coco.entries import Category
from contagg.detection.config import DetectorConfig
from contagg.detection.detectors import build_detector
from contagg.detection.detr.config import SetConfig
from contagg.detection.export import to_onnx
from contagg.detection.saved import Saved, describe, load_detector

SIZE = (96, 160)
CATEGORIES = [Category(3, "cell"), Category(7, "gap"), Category(90, "other")]
RESIZING = ResizingConfig(short_sides=(96,), long_side=150)


def saved(folder: Path, kind: str) -> Path:
    """A run's weights of a small detector that is sure of some things, and whose norms have seen something."""
    torch.manual_seed(0)
    loss = "cross_entropy" if kind == "detr" else "focal"
    sets = SetConfig(queries=20, stride=8, width=32, heads=4, encoder_layers=1, decoder_layers=2, feedforward=32)
    config = DetectorConfig(
        detector=kind,  # type: ignore[arg-type]
        backbone="container_light_tiny",
        options={"depths": (1, 1, 1, 1)},
        norm="train",
        pyramid_channels=16,
        anchor_size=16,
        detections_per_image=50,
        detr=SetConfig(**{**vars(sets), "class_loss": loss}),
    )
    model = build_detector(config, len(CATEGORIES))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
    if kind == "retinanet":
        nn.init.normal_(model.network.head.classification_head.cls_logits.weight, std=0.3)
        nn.init.normal_(model.network.head.regression_head.bbox_reg.weight, std=0.03)
    elif kind != "mask_rcnn":
        nn.init.normal_(model.network.class_head.weight)
    path = folder / "checkpoints" / "best.safetensors"
    path.parent.mkdir(parents=True)
    save_weights(path, model.state_dict(), describe(config, CATEGORIES, RESIZING))
    return path


@pytest.mark.parametrize(
    "kind", ["retinanet", pytest.param("detr", marks=pytest.mark.slow), "smca_detr", "deformable_detr"]
)
def test_the_file_finds_what_the_detector_finds(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = saved(tmp_path, kind)
    out = tmp_path / "found.onnx"
    main(["export", "onnx", str(tmp_path), "--out", str(out)])
    told = capsys.readouterr().out
    assert f"one image of {SIZE[0]} x {SIZE[1]} (height x width)" in told
    assert ("suppression included" in told) == (kind == "retinanet")
    session = onnxruntime.InferenceSession(out.read_bytes(), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(1).random((1, 3, *SIZE), dtype=np.float32)
    boxes, scores, labels = session.run(["boxes", "scores", "labels"], {"images": image})

    model = load_detector(weights).model
    with torch.inference_mode():
        (expected,) = model([torch.from_numpy(image[0])])
    kept = scores > 0.05 if kind == "retinanet" else scores > -1  # torchvision's least score
    assert len(expected["scores"]) == kept.sum() >= 20 and (np.diff(scores) <= 0).all()
    assert len(set(labels.tolist())) > 1 and boxes.min() >= 0 and (boxes <= [SIZE[1], SIZE[0]] * 2).all()
    np.testing.assert_allclose(scores[kept], expected["scores"], atol=1e-5)
    np.testing.assert_allclose(boxes[kept], expected["boxes"], atol=2e-3)
    np.testing.assert_array_equal(labels[kept], expected["labels"])

    file = onnx.load(out)
    onnx.checker.check_model(file)
    said = {entry.key: json.loads(entry.value) for entry in file.metadata_props}
    assert said["class_names"] == ["cell", "gap", "other"] and said["category_ids"] == [3, 7, 90]
    assert said["preprocessing"] == {"input_size": [3, *SIZE], "colours": "RGB", "range": [0, 1]}


def test_a_file_that_finds_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path, "detr")

    def of_another(found: Saved, size: tuple[int, int]) -> bytes:
        model = copy.deepcopy(found.model)
        nn.init.constant_(model.network.box_head[-1].bias, 0.1)  # type: ignore[union-attr, index]
        return to_onnx(replace(found, model=model), size)

    monkeypatch.setattr("contagg.detection.export.to_onnx", of_another)
    with pytest.raises(SystemExit):
        main(["export", "onnx", str(tmp_path), "--out", str(tmp_path / "a.onnx"), "--size", "64,64"])
    assert "was not written: its answers differ from the detector's by" in capsys.readouterr().err
    assert not (tmp_path / "a.onnx").exists()


def test_what_cannot_be_exported_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path, "mask_rcnn")
    for words, message in {
        ("onnx",): "contagg predict writes boxes and masks as COCO results, and --output json the boxes alone",
        ("pt2",): "is of the task 'detection'; networks that classify can be exported as pt2",
    }.items():
        with pytest.raises(SystemExit):
            main(["export", *words, str(tmp_path)])
        assert message in capsys.readouterr().err
    saved(tmp_path / "other", "detr")
    with pytest.raises(SystemExit):
        main(["export", "onnx", str(tmp_path / "other"), "--size", "100,64"])
    assert "--size 100,64: both must be multiples of 32" in capsys.readouterr().err
