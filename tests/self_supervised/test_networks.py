"""Checkpoints with the original's names, ours among them, and files that would run code."""

import argparse
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from contagg.cli import main
from contagg.data.config import CropsConfig
from contagg.errors import UserError
from contagg.self_supervised.networks import build_pair
from contagg.self_supervised.recipe import DinoConfig
from contagg.training.building import build_model
from contagg.training.config import ModelConfig

OPTIONS = {"embed_dims": [8, 8, 16, 32], "patch_sizes": [2, 2, 2, 1], "depths": [1, 1, 1, 1]}
MODEL: dict[str, Any] = {"name": "container_light_tiny", "image_size": 16, "channels": 1, "options": OPTIONS}
DINO = DinoConfig(outputs=32, hidden=24, bottleneck=8)
CROPS = CropsConfig(local_size=8)


def original_file(path: Path) -> dict[str, Any]:
    """As facebookresearch/dino writes it: DDP's prefix on the student, its options beside, rates as NumPy's numbers."""
    torch.manual_seed(1)
    student, teacher, _ = build_pair(ModelConfig(**MODEL), DINO, CROPS)
    torch.nn.init.normal_(teacher.head.mlp[0].weight)
    content = {
        "student": {f"module.{name}": value for name, value in student.state_dict().items()},
        "teacher": teacher.state_dict(),
        "optimizer": {"state": {}, "param_groups": [{"lr": np.linspace(0, 5e-4, 3)[1], "params": [0]}]},
        "epoch": 7,
        "args": argparse.Namespace(arch="ours", lr=5e-4),
    }
    torch.save(content, path)
    return content


def backbone_file(path: Path) -> dict[str, torch.Tensor]:
    """The backbone of the original's teacher by itself."""
    teacher, prefix = original_file(path.with_name("checkpoint.pth"))["teacher"], "backbone."
    alone = {name.removeprefix(prefix): tensor for name, tensor in teacher.items() if name.startswith(prefix)}
    torch.save(alone, path)
    return alone


def test_a_checkpoint_of_the_original_loads_whole(tmp_path: Path) -> None:
    content = original_file(tmp_path / "checkpoint.pth")
    torch.manual_seed(2)
    student, teacher, _ = build_pair(ModelConfig(**MODEL, init_weights=str(tmp_path / "checkpoint.pth")), DINO, CROPS)
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, content["student"][f"module.{name}"])
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, content["teacher"][name])
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_one_of_another_head_is_refused_by_name(tmp_path: Path) -> None:
    original_file(tmp_path / "checkpoint.pth")
    other = DinoConfig(outputs=31, hidden=24, bottleneck=8)
    with pytest.raises(UserError, match=r"head.last_layer.weight_g \(32, 1\), the model's \(31, 1\)"):
        build_pair(ModelConfig(**MODEL, init_weights=str(tmp_path / "checkpoint.pth")), other, CROPS)


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save({"student": {}, "teacher": {}, "args": Malicious(tmp_path / "broken into")}, path)
    config = ModelConfig(**MODEL, init_weights=str(path))
    for build in (lambda: build_pair(config, DINO, CROPS), lambda: build_model(config, num_classes=3)):
        with pytest.raises(UserError, match="no plain file of weights"):
            build()
    assert not (tmp_path / "broken into").exists()


def test_a_classifier_refuses_a_checkpoint_of_another_backbone(tmp_path: Path) -> None:
    original_file(tmp_path / "checkpoint.pth")
    wide = MODEL | {
        "options": OPTIONS | {"embed_dims": [8, 8, 16, 64]},
        "init_weights": str(tmp_path / "checkpoint.pth"),
    }
    with pytest.raises(UserError, match=r"checkpoint.pth' does not fit .*\(32, 16, 1, 1\), the model's \(64, 16, 1, 1"):
        build_model(ModelConfig(**wide), num_classes=10)


def test_the_backbone_alone_may_come_from_a_weights_file(tmp_path: Path) -> None:
    alone = backbone_file(tmp_path / "backbone.pth")
    student, teacher, _ = build_pair(ModelConfig(**MODEL, init_weights=str(tmp_path / "backbone.pth")), DINO, CROPS)
    for network in (student, teacher):
        for name, tensor in network.backbone.state_dict().items():
            assert torch.equal(tensor, alone[name])
    for name, tensor in student.head.state_dict().items():
        assert torch.equal(tensor, teacher.head.state_dict()[name])


SWIN = {"depths": [1, 1], "embed_dim": 16, "num_heads": [1, 1], "window_size": 2, "strict_img_size": False}


@pytest.mark.parametrize(
    ("name", "options"), [("swin_tiny_patch4_window7_224", SWIN), ("mobilenetv3_small_050", {}), ("resnet18", {})]
)
def test_networks_of_timm_whatever_their_features_and_defaults(name: str, options: dict[str, Any]) -> None:
    """Swin has drop path by default, and MobileNetV3 widens its features."""
    model = ModelConfig(name=name, image_size=64, drop_path=0.2, options=options)
    student, teacher, _ = build_pair(model, DINO, CropsConfig(local_size=32))
    assert student([torch.randn(2, 3, size, size) for size in (64, 64, 32)]).shape == (6, 32)
    rates = [max(getattr(part, "drop_prob", 0) for part in network.modules()) for network in (student, teacher)]
    assert rates[0] > 0.1 and rates[1] == 0


@pytest.mark.parametrize("file", ["backbone.pth", "checkpoint.pth"])
def test_a_classifier_begins_from_it_and_a_probe_leaves_it_as_it_is(file: str, tmp_path: Path) -> None:
    """From the backbone alone, and from a checkpoint of the original, of which the teacher's is taken."""
    alone = backbone_file(tmp_path / "backbone.pth")
    config = ModelConfig(**MODEL, init_weights=str(tmp_path / file), probe=True)
    model, _ = build_model(config, num_classes=10)
    learnt = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert learnt == ["head.fc.weight", "head.fc.bias"]
    model(torch.randn(3, 1, 16, 16)).square().sum().backward()
    for name, tensor in alone.items():
        assert torch.equal(model.state_dict()[name], tensor), name
    with pytest.raises(UserError, match=r"model.probe needs model.init_weights"):
        ModelConfig(**MODEL, probe=True)


def test_a_probe_trains_through_the_command_and_keeps_the_features(tmp_path: Path) -> None:
    alone = backbone_file(tmp_path / "backbone.pth")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"""
task: classification
model:
  {{name: container_light_tiny, image_size: 16, channels: 1, init_weights: {tmp_path / "backbone.pth"}, probe: true,
   options: {OPTIONS}}}
data: {{name: digits, fraction: 0.07}}
augmentation: {{crop: padded, mixup: 0, cutmix: 0, auto_augment: null}}
optimization: {{epochs: 2, warmup_epochs: 0, batch_size: 20, lr: 0.01, lr_batch_size: null}}
run: {{folder: {tmp_path / "probe"}, accelerator: cpu, workers: 0}}
""")
    main(["fit", "-c", str(recipe)])
    training_state = max((tmp_path / "probe" / "checkpoints").glob("*.ckpt"))
    state = torch.load(training_state, weights_only=True)["state_dict"]
    for name, tensor in alone.items():
        assert torch.equal(state[f"model.{name}"], tensor), name
    again, _ = build_model(ModelConfig(**MODEL, init_weights=str(training_state)), num_classes=10)
    assert all(torch.equal(state[f"model.{name}"], tensor) for name, tensor in again.state_dict().items())
    fresh, _ = build_model(ModelConfig(**MODEL), num_classes=10)
    assert not torch.equal(state["model.head.fc.bias"], fresh.state_dict()["head.fc.bias"])


def test_neighbours_in_the_features_of_an_original_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = ModelConfig(name="container_light_tiny", image_size=32)
    student, teacher, _ = build_pair(model, DINO, CropsConfig(local_size=32))
    torch.save({"student": student.state_dict(), "teacher": teacher.state_dict()}, tmp_path / "dino.pth")
    options = ["--model", "container_light_tiny", "--image-size", "32", "--k", "5", "--cache", str(tmp_path / "kept")]
    main(["knn", str(tmp_path / "dino.pth"), "digits", *options])
    first = capsys.readouterr().out
    assert "of 359 images among 1438" in first
    assert 40 < float(first.split("5-NN ")[1].split(" %")[0]) <= 100
    kept = sorted((tmp_path / "kept").iterdir())
    assert len(kept) == 2
    times = [path.stat().st_mtime_ns for path in kept]
    main(["knn", str(tmp_path / "dino.pth"), "digits", *options])
    assert capsys.readouterr().out == first
    assert [path.stat().st_mtime_ns for path in kept] == times


def test_kept_features_are_of_the_images_bytes_not_of_their_names(
    tmp_path: Path, image_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Files of the same names and sizes, which held other images, were answered from what was kept."""
    root = image_folder(train=4, val=3)
    for path in list(root.rglob("*.*")):
        with Image.open(path) as image:
            image.convert("RGB").resize((40, 40)).save(path.with_suffix(".bmp"))
        path.unlink()
    model = ModelConfig(name="container_light_tiny", image_size=32)
    student, teacher, _ = build_pair(model, DINO, CropsConfig(local_size=32))
    torch.save({"student": student.state_dict(), "teacher": teacher.state_dict()}, tmp_path / "dino.pth")
    kept = tmp_path / "kept"
    options = ["--model", "container_light_tiny", "--image-size", "32", "--k", "1", "--cache", str(kept)]

    def ask(folder: Path) -> int:
        main(["knn", str(tmp_path / "dino.pth"), str(folder), *options])
        return len(list(kept.iterdir()))

    assert ask(root) == 2
    moved = tmp_path / "moved"
    shutil.copytree(root, moved)
    assert ask(moved) == 2
    one, other = (root / f"val/{name}/{name} 0.bmp" for name in ("china", "flower"))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    assert ask(root) == 3  # the bank is as it was


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.pth"], "no weights at 'nothing.pth'"),
        (
            ["dino.pth", "digitz", "--model", "container_light_tiny"],
            "it is none of digits, fashion-mnist, shifted-fashion-mnist, cifar10. Did you mean 'digits'?",
        ),
        (["dino.pth", "digits", "--model", "container_lite"], "unknown model 'container_lite'. Did you mean"),
        (
            ["dino.pth", "digits", "--model", "container_light_tiny", "--k", "1439"],
            "1439 nearest neighbours are more than",
        ),
        (["dino.pth", "digits", "--k", "0"], "'0' is not a whole number above 0"),
    ],
)
def test_a_bad_question_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    student, teacher, _ = build_pair(
        ModelConfig(name="container_light_tiny", image_size=32), DINO, CropsConfig(local_size=32)
    )
    torch.save({"student": student.state_dict(), "teacher": teacher.state_dict()}, "dino.pth")
    with pytest.raises(SystemExit) as stop:
        main(["knn", *arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_heads_start_as_the_originals_and_both_networks_are_one() -> None:
    """A truncated normal of 0.02 and no biases; prototypes of unit length, whose gain is not learnt."""
    torch.manual_seed(0)
    student, teacher, _ = build_pair(ModelConfig(**MODEL), DinoConfig(outputs=512, hidden=128, bottleneck=64), CROPS)
    layers = [layer for layer in student.head.mlp if isinstance(layer, torch.nn.Linear)]
    assert len(layers) == 3 and not any(layer.bias.any() for layer in layers)
    for layer in layers:
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
    last = student.head.last_layer
    assert torch.equal(last.weight_g, torch.ones(512, 1)) and not last.weight_g.requires_grad
    torch.testing.assert_close(last(torch.eye(64)).square().sum(0), torch.ones(512))
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, teacher.state_dict()[name])
