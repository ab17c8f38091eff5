"""Detectors' weights files: what they begin from, what they say of themselves, and how they come back."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from contagg import create
from contagg.checkpoints.weights import save_weights
from contagg.cli import main
from contagg.detection.backbone import Features
from contagg.detection.config import DETECTION_DEFAULTS, DetectorConfig
from contagg.detection.detr.config import SetConfig
from contagg.detection.initial import init_detector
from contagg.errors import UserError
from contagg.training.schedules import Schedules


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
