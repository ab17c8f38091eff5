"""Where a detector begins: from the released file, from a detector for the same or other classes."""

from pathlib import Path

import pytest
import torch
from released_names import to_released

import contagg
from contagg.checkpoints.weights import save_weights
from contagg.detection.backbone import Features
from contagg.detection.config import DetectorConfig
from contagg.detection.detectors import build_detector, features_of
from contagg.detection.initial import init_detector
from contagg.errors import UserError

SMALL = {"backbone": "container_light_tiny", "pyramid_channels": 8, "anchor_size": 8}


def test_the_released_file_is_loaded_and_what_it_lacks_is_said(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = contagg.create("container_v1_light").eval()
    path = tmp_path / "released.pth"
    torch.save({"model": to_released(network.state_dict())}, path)
    features = Features("container_v1_light", [4, 8, 16, 32], frozen=True).eval()
    said = init_detector(features, features, str(path))
    wanted = len(features.body.state_dict())
    assert said.startswith(
        f"backbone: {wanted} of {wanted} tensors loaded from {path}; not in the file: none; not used:"
    )
    assert "head.fc.weight" in said
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = network.forward_intermediates(images, intermediates_only=True)
        for got, its in zip(features(images), expected, strict=True):
            torch.testing.assert_close(got, its)
    with pytest.raises(
        UserError, match=r"model\.init_weights .*released\.pth: .* is \(.*\) there and \(.*\) in the backbone"
    ):
        other = Features("container_text", [4, 8, 16, 32], frozen=True)
        init_detector(other, other, str(path))


def detector(kind: str = "retinanet", classes: int = 3, seed: int = 0, **options: object) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_detector(DetectorConfig(**SMALL, detector=kind, norm="train", **options), classes)


def started(model: torch.nn.Module, path: Path, names: list[str] | None = None) -> str:
    return init_detector(model, features_of(model), str(path), class_names=names)


def differing(first: torch.nn.Module, second: torch.nn.Module) -> list[str]:
    return [
        name
        for (name, one), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True)
        if one.shape != other.shape or not torch.equal(one, other)
    ]


@pytest.mark.parametrize("kind", ["retinanet", "mask_rcnn"])
def test_a_detector_begins_from_another_whole(kind: str, tmp_path: Path) -> None:
    source, model = detector(kind), detector(kind, seed=1)
    path = tmp_path / "detector.safetensors"
    save_weights(path, source.state_dict(), {"task": "detection", "class_names": ["a", "b", "c"]})
    said = started(model, path, ["a", "b", "c"])
    count = len(source.state_dict())
    assert said.startswith(f"detector: {count} of {count} tensors loaded") and "anew" not in said
    assert not differing(source, model)


@pytest.mark.parametrize(("classes", "names"), [(5, ["a", "b", "c", "d", "e"]), (3, ["a", "b", "x"])])
@pytest.mark.parametrize("kind", ["retinanet", "mask_rcnn", "detr"])
def test_heads_for_other_classes_start_anew(kind: str, classes: int, names: list[str], tmp_path: Path) -> None:
    source, model, fresh = detector(kind), detector(kind, classes, seed=1), detector(kind, classes, seed=1)
    path = tmp_path / "detector.ckpt"
    if classes == 3:
        path = tmp_path / "detector.safetensors"
        save_weights(path, source.state_dict(), {"task": "detection", "class_names": ["a", "b", "c"]})
    else:  # a training state, which does not name its classes
        torch.save({"state_dict": {f"model.{name}": value for name, value in source.state_dict().items()}}, path)
    said = started(model, path, names)
    heads = {
        "retinanet": ["cls_logits"],
        "mask_rcnn": ["roi_heads.box_predictor.cls_score", "box_predictor.bbox_pred", "mask_fcn_logits"],
        "detr": ["class_head"],
    }[kind]
    assert "start anew" in said and heads[0] in said
    assert "not in the file: none" in said  # it has them, of other classes
    for name in differing(source, model):
        assert any(head in name for head in heads), name
    for name, tensor in model.state_dict().items():
        if any(head in name for head in heads):
            assert torch.equal(tensor, fresh.state_dict()[name]), name


def test_another_kind_of_detector_gives_its_backbone(tmp_path: Path) -> None:
    source, model = detector("retinanet"), detector("detr", seed=1)
    path = tmp_path / "detector.safetensors"
    save_weights(path, source.state_dict(), {"task": "detection"})
    assert started(model, path).startswith("backbone: ")
    assert not differing(features_of(source), features_of(model))


def test_a_file_of_another_network_is_told(tmp_path: Path) -> None:
    """DETR keeps stages that two networks may share in part, so that no shape need differ."""
    path = tmp_path / "classifier.safetensors"
    save_weights(path, contagg.create("container_tiny").state_dict(), {"model": {"name": "container_tiny"}})
    features = Features("container_light_tiny.caltech101", [8], frozen=True)
    said = init_detector(features, features, str(path))
    assert "it is of the network 'container_tiny', the backbone is 'container_light_tiny'" in said
    own = contagg.create("container_light_tiny").state_dict()
    for metadata in ({"model": {"name": "container_light_tiny"}}, {"detector": {"backbone": "container_light_tiny"}}):
        save_weights(path, own, metadata)
        assert "it is of the network" not in init_detector(features, features, str(path))


def test_a_classifiers_average_in_a_wrapper(tmp_path: Path) -> None:
    network, average = contagg.create("container_light_tiny"), contagg.create("container_light_tiny")
    path = tmp_path / "classifier.pth"
    states = {
        key: {f"module.{name}": value for name, value in one.state_dict().items()}
        for key, one in (("model", network), ("model_ema", average))
    }
    torch.save(states, path)
    features = Features("container_light_tiny", [8, 16, 32], frozen=True)
    for ema, wanted in ((False, network), (True, average)):
        said = init_detector(features, features, str(path), ema=ema)
        assert "tensors loaded" in said and ("'model_ema', not 'model'" in said) == ema
        body = features.body.model
        assert torch.equal(body.stages[0].embedding.projection.weight, wanted.stages[0].embedding.projection.weight)


@pytest.mark.parametrize("value", [float("nan"), 1])
def test_weights_that_are_no_fractions_or_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    source, model = detector("retinanet"), detector("retinanet", seed=1)
    state = {name: torch.full_like(one, value, dtype=torch.tensor(value).dtype) if "conv" in name else one
             for name, one in source.state_dict().items()}  # fmt: skip
    save_weights(tmp_path / "odd.safetensors", state, {"task": "detection"})
    with pytest.raises(UserError, match=r"model\.init_weights .*odd\.safetensors: .*(whole numbers|not finite)"):
        started(model, tmp_path / "odd.safetensors")
