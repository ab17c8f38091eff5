"""A stranger's file or recipe cannot make `timm.create_model` fetch, read or write anything, nor take all memory."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image

from contagg.checkpoints.options import check_model, documented
from contagg.checkpoints.weights import load_model, save_weights
from contagg.cli import main
from contagg.detection.config import DetectorConfig
from contagg.detection.saved import load_detector
from contagg.errors import UserError
from contagg.training.building import build_model
from contagg.training.config import ModelConfig


def nested(depth: int) -> Any:
    value: Any = "dwconv3"
    for _ in range(depth):
        value = [value]
    return value


FETCHING = {"pretrained": True, "pretrained_cfg_overlay": {"url": "data:,text#/stolen.pth"}, "cache_dir": "written"}
HOSTILE: dict[str, tuple[Any, Any]] = {
    "fetching by a URL": ("resnet18", FETCHING),
    "pretrained alone": ("resnet18", {"pretrained": True}),
    "another configuration": ("resnet18", {"pretrained_cfg": {"file": "/etc/passwd"}}),
    "a folder to write": ("resnet18", {"cache_dir": "written"}),
    "a file to read": ("container_light_tiny", {"checkpoint_path": "/etc/passwd"}),
    "another object": ("container_light_tiny", {"features_only": True}),
    "a feature class": ("container_light_tiny", {"feature_cls": "fx"}),
    "a hub's name": ("hf-hub:someone/something", {}),
    "a hub's name as people write it": ("google/vit-base-patch16-224", {}),
    "a folder": ("local-dir:/tmp", {}),
    "an address": ("https://example.org/x", {}),
    "a number as name": (3, {}),
    "options that are none": ("container_light_tiny", ["pretrained"]),
    "a nested option": ("container_light_tiny", {"depths": [[[[[[[[[[1]]]]]]]]]]}),
    "an address as value": ("container_light_tiny", {"affinity": "file:///etc/passwd"}),
    "escapes as value": ("container_light_tiny", {"affinity": "\x1b[2J"}),
    "not a number": ("container_light_tiny", {"drop_rate": float("nan")}),
    "a huge number": ("container_light_tiny", {"img_size": 10**9}),
    "a network without end": ("deit_tiny_patch16_224", {"depth": 99_999, "embed_dim": 192}),
    "a wide network": ("deit_tiny_patch16_224", {"embed_dim": 96_000}),
    "a huge grid": ("container_tiny", {"affinity": "token mlp", "img_size": 100_000}),
    "blocks without end": ("container_light_tiny", {"depths": [100_000, 1, 1, 1]}),
    "lists in lists in lists": ("container_light_tiny", {"affinity": nested(700)}),
    "an unknown option": ("resnet18", {"no_such_option": 1}),
    "a word for a function": ("resnet18", {"block": "BasicBlock"}),
    "a list for a number": ("resnet18", {"num_classes": [3]}),
}
LARGE = ("blocks without end", "a network without end", "a wide network", "a huge grid")
"""What a recipe may ask for; a file must have the weights for it."""


def file_saying(folder: Path, name: Any, options: Any) -> Path:
    metadata = {
        "task": "classification",
        "model": {"name": name, "options": options},
        "class_names": ["a", "b", "c"],
        "preprocessing": {
            "input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3,
            "crop": "resized", "crop_fraction": 1.0, "interpolation": "bilinear",
        },
    }  # fmt: skip
    save_weights(folder / "given" / "stranger.safetensors", {"weight": torch.zeros(1)}, metadata)
    return folder / "given" / "stranger.safetensors"


@pytest.fixture
def nothing_else_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the test nothing lies in the working folder but what the test gave; conftest refuses connections."""
    (tmp_path / "given").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    yield
    assert [path.name for path in tmp_path.iterdir()] == ["given"]


@pytest.mark.usefixtures("nothing_else_happens")
@pytest.mark.parametrize("what", HOSTILE)
def test_a_file_says_only_what_is_harmless(tmp_path: Path, what: str) -> None:
    with pytest.raises(UserError, match=r"stranger\.safetensors"):
        load_model(file_saying(tmp_path, *HOSTILE[what]))


@pytest.mark.usefixtures("nothing_else_happens")
@pytest.mark.parametrize(
    "command",
    ["predict", "validate", "knn", "inspect affinity", "inspect static", "export onnx", "export pt2", "export timm"],
)
@pytest.mark.parametrize("what", ["fetching by a URL", "a hub's name"])
def test_every_command_refuses_it(tmp_path: Path, what: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(file_saying(tmp_path, *HOSTILE[what]))
    image = str(tmp_path / "given" / "image.png")
    Image.new("RGB", (32, 32)).save(image)
    rest = {
        "predict": [image],
        "validate": ["--data.name", "digits"],
        "knn": ["digits"],
        "inspect affinity": [image],
        "export timm": ["out"],
    }
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), path, *rest.get(command, [])])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert "the option 'pretrained' is not taken" in error or "must be the plain name of a network" in error


@pytest.mark.usefixtures("nothing_else_happens")
@pytest.mark.parametrize("what", [what for what in HOSTILE if what not in LARGE])
def test_a_recipe_says_only_what_is_harmless(what: str) -> None:
    name, options = HOSTILE[what]
    with pytest.raises(UserError):
        build_model(ModelConfig(name=name, image_size=32, drop_path=0, options=options), num_classes=3)


@pytest.mark.usefixtures("nothing_else_happens")
@pytest.mark.parametrize("what", HOSTILE)
def test_a_detectors_file_says_only_what_is_harmless(tmp_path: Path, what: str) -> None:
    name, options = HOSTILE[what]
    for described in ({}, {"pretrained": True}, {"init_weights": "/etc/passwd"}):
        metadata = {
            "task": "detection",
            "detector": {"detector": "retinanet", "backbone": name, "options": options, **described},
            "categories": [{"id": 1, "name": "a"}],
            "class_names": ["a"],
            "resizing": {},
        }
        save_weights(tmp_path / "given" / "stranger.safetensors", {"weight": torch.zeros(1)}, metadata)
        with pytest.raises(UserError, match=r"stranger\.safetensors|model\.(backbone|options)"):
            load_detector(tmp_path / "given" / "stranger.safetensors")


@pytest.mark.usefixtures("nothing_else_happens")
def test_a_detectors_file_fetches_nothing_by_its_own_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pretrained` is a key of a recipe, not of a file: the weights are in the file."""
    asked = []
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *_, **__: asked.append(1))
    metadata = {
        "task": "detection",
        "detector": {"detector": "retinanet", "backbone": "resnet18", "pretrained": True, "drop_path": 0},
        "categories": [{"id": 1, "name": "a"}],
        "resizing": {},
    }
    save_weights(tmp_path / "given" / "stranger.safetensors", {"weight": torch.zeros(1)}, metadata)
    with pytest.raises(UserError, match="does not fit"):
        load_detector(tmp_path / "given" / "stranger.safetensors")
    assert not asked
    with pytest.raises(UserError, match=r"model\.backbone: model name 'hf-hub:a/b' must be the plain name"):
        DetectorConfig(detector="retinanet", backbone="hf-hub:a/b", norm="train")


def test_what_networks_document_is_taken() -> None:
    for name, options in {
        "container_light": {"affinity": ["dwconv3", "dwconv3", "dwconv3", "attention"], "embed_dims": [8, 8, 16, 32]},
        "vit_tiny_mixer": {"affinity": ["attention", "dwconv3"], "gate": "sum", "depth": 2, "class_token": False},
        "deit_small_pam": {"embed_dim": 48, "depth": 2, "num_heads": 2, "img_size": 32},
        "vit_tiny_patch16_224.augreg_in21k": {"dynamic_img_size": True, "class_token": False, "global_pool": "avg"},
        "swin_tiny_patch4_window7_224": {"window_size": 2, "strict_img_size": False, "depths": [1, 1]},
        "resnet18": {"output_stride": 16, "stem_width": 32},
    }.items():
        assert check_model(name, options, "file") == (name, options)


def test_no_power_of_timm_is_documented() -> None:
    """Whatever `create_model` and what it calls take for themselves is no option of any network."""
    import inspect

    from timm.models import build_model_with_cfg

    powers = {*inspect.signature(timm.create_model).parameters, *inspect.signature(build_model_with_cfg).parameters}
    for name in ("container_light", "resnet18", "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "vgg11"):
        assert not powers & documented(name), name
