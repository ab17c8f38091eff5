"""Training begins from the files that people have, whatever wraps their tensors, also for other sizes and classes."""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning
import timm
import torch
from released_names import to_released
from timm.utils import CheckpointSaver, ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel

import contagg
from contagg.checkpoints.fitting import init_weights
from contagg.checkpoints.models import open_model
from contagg.checkpoints.weights import read_weights, save_weights
from contagg.errors import UserError

SMALL = {"embed_dims": [8, 8, 16, 32], "depths": [1, 1, 1, 1]}


def network(seed: int = 0, name: str = "container_light_tiny", **options: object) -> nn.Module:
    torch.manual_seed(seed)
    model = contagg.create(name, **(SMALL | {"num_classes": 5} | options)).eval()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            nn.init.normal_(tensor, std=0.1).abs_()
    return model


def same(first: nn.Module, second: nn.Module, but: tuple[str, ...] = ()) -> bool:
    pairs = zip(first.state_dict().items(), second.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for (name, one), other in pairs if not name.startswith(but))


class Module(pytorch_lightning.LightningModule):
    def __init__(self, net: nn.Module, **options: object) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["net"])
        self.net = net


def lightning(model: nn.Module, path: Path) -> None:
    trainer = pytorch_lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, barebones=False)
    trainer.strategy.connect(Module(model, lr=1e-3, folder=Path("runs"), nested={"depth": [1, 2]}))
    trainer.save_checkpoint(path)


def of_timm(model: nn.Module, path: Path) -> None:
    """As timm's train.py writes it."""
    args = argparse.Namespace(model="container_light_tiny", opt="adamw", lr=np.float64(1e-3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    saver = CheckpointSaver(
        model, optimizer, args=args, model_ema=ModelEmaV3(network(9)), checkpoint_dir=str(path.parent)
    )
    saver.save_checkpoint(3, metric=np.float64(0.5))
    (path.parent / "last.pth.tar").rename(path)


def of_deit(model: nn.Module, path: Path) -> None:
    """As DeiT's main.py writes it."""
    args = argparse.Namespace(model="deit", output_dir=Path("out"), device="cuda", input_size=224)
    content = {"model": model.state_dict(), "optimizer": {}, "lr_scheduler": {"last_epoch": 3}, "epoch": 3}
    torch.save(content | {"model_ema": network(9).state_dict(), "scaler": {}, "args": args}, path)


def prefixed(prefix: str, key: str | None = None) -> Callable[[nn.Module, Path], None]:
    def write(model: nn.Module, path: Path) -> None:
        state = {prefix + name: value for name, value in model.state_dict().items()}
        torch.save({key: state, "epoch": 3} if key else state, path)

    return write


def with_others(model: nn.Module, path: Path) -> None:
    state = {f"encoder.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state | {"decoder.weight": torch.ones(3), "criterion.weight": torch.ones(5)}}, path)


def twice(model: nn.Module, path: Path) -> None:
    """A network and its average side by side."""
    of = {f"ema_model.{name}": value for name, value in network(9).state_dict().items()}
    torch.save(of | {f"network.{name}": value for name, value in model.state_dict().items()}, path)


def without_counters(model: nn.Module, path: Path) -> None:
    torch.save({k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}, path)


FILES: dict[str, Callable[[nn.Module, Path], None]] = {
    "plain": prefixed(""),
    "DistributedDataParallel": prefixed("module."),
    "torch.compile": lambda model, path: torch.save(torch.compile(model).state_dict(), path),
    "compiled in a module": prefixed("model._orig_mod.", "state_dict"),
    "averaged": lambda model, path: torch.save({"model": AveragedModel(model).state_dict()}, path),
    "model.": prefixed("model.", "state_dict"),
    "backbone.": prefixed("backbone."),
    "net.": prefixed("net.", "net"),
    "encoder.": prefixed("module.encoder.", "model"),
    "others beside it": with_others,
    "its average beside it": twice,
    "Lightning": lightning,
    "timm": of_timm,
    "DeiT": of_deit,
    "the released names": lambda model, path: torch.save({"model": to_released(model.state_dict())}, path),
    "the released names, wrapped": lambda model, path: torch.save(
        {f"module.net.{name}": value for name, value in to_released(model.state_dict()).items()}, path
    ),
}


@pytest.mark.parametrize("what", FILES)
def test_what_people_have_is_loaded(tmp_path: Path, what: str) -> None:
    name = "container_v1_light" if "released" in what else "container_light_tiny"
    source, model = network(1, name), network(2, name)
    FILES[what](source, tmp_path / "weights.pth")
    lines = init_weights(model, str(tmp_path / "weights.pth"))
    assert same(source, model)
    said = " ".join(lines)
    if what in ("DeiT", "timm"):
        assert "'model', not 'model_ema' is taken" in said or "'state_dict', not 'state_dict_ema' is taken" in said
    elif what == "others beside it":
        assert said.endswith("under 'encoder.' 117 tensors are taken, 2 elsewhere not")
    elif what != "its average beside it":
        assert not said


def test_commands_take_the_same_files_for_a_named_network(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = contagg.create("container_light_tiny")
    of_deit(source, tmp_path / "weights.pth")
    model, _ = open_model("container_light_tiny", str(tmp_path / "weights.pth"))
    assert same(source, model) and "'model', not 'model_ema' is taken" in caplog.text


@pytest.mark.parametrize("what", ["DeiT", "timm"])
def test_the_average_is_taken_where_it_is_asked_for(
    tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """DeiT's authors, and so the released network's, report `model` (deit#67)."""
    FILES[what](network(1), tmp_path / "weights.pth")
    model = network(2)
    lines = init_weights(model, str(tmp_path / "weights.pth"), ema=True)
    assert same(network(9), model) and "_ema', not " in lines[0]
    state, _ = read_weights(tmp_path / "weights.pth")
    assert all(torch.equal(state[name], value) for name, value in network(1).state_dict().items())
    assert "_ema' is taken" in caplog.text and "not" in caplog.text


def test_an_average_that_is_not_there(tmp_path: Path) -> None:
    FILES["Lightning"](network(1), tmp_path / "weights.ckpt")
    with pytest.raises(UserError, match=r"holds no average: none of model_ema, .* is among its keys state_dict"):
        init_weights(network(2), str(tmp_path / "weights.ckpt"), ema=True)


def test_missing_counters_of_batches_stay_as_they_are(tmp_path: Path) -> None:
    source, model = network(1), network(2)
    without_counters(source, tmp_path / "old.pth")
    init_weights(model, str(tmp_path / "old.pth"))
    assert same(source, model)


def test_another_number_of_classes(tmp_path: Path) -> None:
    source, model = network(1), network(2, num_classes=3)
    fresh = network(2, num_classes=3)
    save_weights(tmp_path / "five.safetensors", source.state_dict(), {})
    (line,) = init_weights(model, str(tmp_path / "five.safetensors"))
    assert "the classifier starts anew: the file's is for 5 classes, here are 3" in line
    assert same(source, model, but=("head.",)) and torch.equal(model.head.fc.weight, fresh.head.fc.weight)


@pytest.mark.parametrize("there", [["a", "b", "c", "d", "x"], ["b", "a", "c", "d", "e"]])
def test_as_many_but_other_classes(tmp_path: Path, there: list[str]) -> None:
    source, model = network(1), network(2)
    save_weights(tmp_path / "run.safetensors", source.state_dict(), {"class_names": there})
    path = str(tmp_path / "run.safetensors")
    (line,) = init_weights(model, path, class_names=list("abcde"))
    assert "the classifier starts anew: the file's classes are" in line and line.endswith("here a, b, c, ...")
    assert same(source, model, but=("head.",)) and torch.equal(model.head.fc.weight, network(2).head.fc.weight)
    assert not init_weights(model, path, class_names=there) and same(source, model)
    assert not init_weights(model, path) and same(source, model)


def test_a_classifier_that_starts_anew_is_told_once(tmp_path: Path) -> None:
    source, model = network(1), network(2, num_classes=3)
    state = {name: tensor for name, tensor in source.state_dict().items() if not name.startswith("head.")}
    for name, weights, said in (("five", source.state_dict(), "is for 5 classes"), ("none", state, "is missing")):
        path = tmp_path / f"{name}.safetensors"
        save_weights(path, weights, {"class_names": ["images"]})  # as a run without labels names all there is
        (line,) = init_weights(model, str(path), class_names=["a", "b", "c"])
        assert line.endswith(f"the classifier starts anew: the file's {said}, here are 3")


def test_features_alone_leave_the_classifier_out(tmp_path: Path) -> None:
    source, model = network(1), network(2, num_classes=0)
    torch.save({"model": source.state_dict()}, tmp_path / "weights.pth")
    init_weights(model, str(tmp_path / "weights.pth"))
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(model(images), source.forward_head(source.forward_features(images), pre_logits=True))


def test_other_channels_are_adapted_as_timm_does(tmp_path: Path) -> None:
    source, grey = network(1), network(2, in_chans=1)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    (line,) = init_weights(grey, str(tmp_path / "weights.pth"))
    assert line.endswith("stages.0.embedding.projection adapted from 3 channels to 1")
    image = torch.randn(1, 1, 32, 32)
    torch.testing.assert_close(grey(image), source(image.expand(-1, 3, -1, -1)))
    told = {"state_dict": dict(source.state_dict()), "num_classes": 5}
    options = SMALL | {"num_classes": 5, "in_chans": 1, "pretrained": True, "pretrained_cfg_overlay": told}
    assert same(timm.create_model("container_light_tiny", **options), grey)
    torch.save(grey.state_dict(), tmp_path / "grey.pth")
    back = network(3)
    (line,) = init_weights(back, str(tmp_path / "grey.pth"))
    assert line.endswith("adapted from 1 channel to 3")
    torch.testing.assert_close(back(image.expand(-1, 3, -1, -1)), grey(image))


@pytest.mark.parametrize("affinity", ["attention/8 + dwconv3", "token mlp/8"])
def test_another_image_size_of_ours(tmp_path: Path, affinity: str) -> None:
    """Positions and static N x N are what `set_input_size` makes of them."""
    source, model = (
        network(seed, "container_tiny", affinity=affinity, img_size=side) for seed, side in ((1, 64), (2, 96))
    )
    metadata = {"model": {"name": "container_tiny", "options": {"img_size": 64}}}
    for said in (metadata, {}):
        save_weights(tmp_path / "small.safetensors", source.state_dict(), said)
        (line,) = init_weights(model, str(tmp_path / "small.safetensors"))
        assert "resized for this image size: stages.0." in line
        expected = network(1, "container_tiny", affinity=affinity, img_size=64)
        expected.set_input_size(96)
        assert same(expected, model)


def test_another_image_size_of_timms(tmp_path: Path) -> None:
    options = {"patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2, "num_classes": 5}
    source, model = (timm.create_model("deit_tiny_patch16_224", img_size=side, **options).eval() for side in (32, 48))
    torch.save({"model": source.state_dict()}, tmp_path / "deit.pth")
    (line,) = init_weights(model, str(tmp_path / "deit.pth"))
    assert line.endswith("resized for this image size: pos_embed")
    source.set_input_size(48)
    assert same(source, model)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    save_weights(tmp_path / "wide.safetensors", network(1, embed_dims=[8, 8, 16, 64]).state_dict(), {})
    with pytest.raises(
        UserError, match=r"^model.init_weights '.*wide.safetensors' does not fit this Container: .*\(64, 16"
    ):
        init_weights(network(2), str(tmp_path / "wide.safetensors"))
    save_weights(tmp_path / "other.safetensors", timm.create_model("resnet18").state_dict(), {})
    with pytest.raises(UserError, match=r"does not fit this Container: \d+ tensors missing"):
        init_weights(network(2), str(tmp_path / "other.safetensors"))
    described = {"model": {"name": "container_tiny", "options": {"affinity": ["dwconv3", "attention"]}}}
    save_weights(tmp_path / "described.safetensors", network(1, depths=[2, 1, 1, 1]).state_dict(), described)
    with pytest.raises(UserError, match=r"The file is of container_tiny, affinity \['dwconv3', 'attention'\]$"):
        init_weights(network(2), str(tmp_path / "described.safetensors"))
