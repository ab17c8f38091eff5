"""Checkpoints of other names, sizes, channels and classes, through timm's own ways of loading them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from released_names import to_released
from timm.layers import resample_abs_pos_embed
from torch import nn

import contagg
from contagg.errors import UserError
from contagg.nn.checkpoint_filter import checkpoint_filter_fn

PAM = {"embed_dim": 96, "depth": 2, "num_heads": 3}
SMALL: dict[str, dict] = {
    "container_tiny": {},
    "container_mlp": {"embed_dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "mlp_ratios": (1, 1, 1, 1)},
    "container_mh_mlp_lr": {"embed_dims": (32, 32, 32, 32), "depths": (1, 1, 1, 1)},
    "vit_tiny_mixer": PAM | {"affinity": ["attention relative", "window7"]},
    "deit_small_pam": PAM,
}


def make(name: str, **arguments: object) -> nn.Module:
    return contagg.create(name, **SMALL.get(name, {}), **arguments).eval()


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """A `container_v1_light` of 1000 classes, and its file under the authors' names."""
    torch.manual_seed(0)
    model = make("container_v1_light")
    path = tmp_path_factory.mktemp("released") / "checkpoint.pth"
    torch.save({"model": to_released(model.state_dict())}, path)
    return model, path


def test_timm_adapts_the_authors_file_to_other_classes_and_channels(released: tuple[nn.Module, Path]) -> None:
    model, path = released
    adapted = timm.create_model(
        "container_v1_light",
        num_classes=3,
        in_chans=1,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(path)},
    ).eval()
    grey = torch.randn(1, 1, 64, 96)
    # timm sums the stem's kernels over the colours: a grey image is answered as the same image in three channels.
    expected = model.forward_features(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(adapted.forward_features(grey), expected, rtol=1e-3, atol=1e-4)
    assert adapted(grey).shape == (1, 3)


@pytest.mark.parametrize("way", ["pretrained", "checkpoint_path"])
@pytest.mark.parametrize("names", ["ours", "released"])
def test_a_file_serves_the_features_only_wrapper(
    released: tuple[nn.Module, Path], tmp_path, way: str, names: str
) -> None:
    model, path = released
    if names == "ours":
        path = tmp_path / "ours.pth"
        torch.save(model.state_dict(), path)
    given = {"checkpoint_path": str(path)} if way == "checkpoint_path" else {"pretrained": True}
    overlay = {"pretrained_cfg_overlay": {"file": str(path)}} if way == "pretrained" else {}
    features = timm.create_model(
        "container_v1_light", features_only=True, out_indices=(0, 2), **given, **overlay
    ).eval()
    images = torch.randn(1, 3, 64, 64)
    for got, expected in zip(features(images), model.forward_intermediates(images, [0, 2])[1], strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("prefix", ["module.", "model.", "backbone.model.", "teacher.backbone."])
def test_what_a_wrapper_put_before_the_names_is_cut_off(tmp_path: Path, prefix: str) -> None:
    model = make("container_light_tiny", num_classes=2)
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    path = tmp_path / "wrapped.pth"
    beside = {"criterion.center": torch.zeros(3)} if prefix != "module." else {}  # timm itself cuts that one off
    torch.save({"state_dict": {**state, **beside}}, path)
    for given in (
        {"pretrained": True, "pretrained_cfg_overlay": {"file": str(path), "num_classes": 2}},
        {"checkpoint_path": str(path)},
    ):
        other = timm.create_model("container_light_tiny", num_classes=2, **given)
        assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in other.state_dict().items())


def test_several_networks_in_one_file_are_named() -> None:
    model = make("container_light_tiny")
    state = {f"{who}.{name}": tensor for who in ("student", "teacher") for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=r"holds 2 networks, under \['student.', 'teacher.'\]"):
        checkpoint_filter_fn(state, model)


def test_a_pair_of_networks_does_not_take_each_others_tensors() -> None:
    pair = nn.ModuleDict({"student": make("container_light_tiny"), "teacher": make("container_light_tiny")})
    before = pair["student"].state_dict()["head.fc.weight"].clone()
    tensors = {f"teacher.{name}": 2 * tensor for name, tensor in pair["teacher"].state_dict().items()}
    pair.load_state_dict(tensors, strict=False)
    assert torch.equal(pair["student"].state_dict()["head.fc.weight"], before)
    assert torch.equal(pair["teacher"].state_dict()["head.fc.weight"], tensors["teacher.head.fc.weight"])


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("source", "target"), [((64, 64), (96, 96)), ((96, 64), (64, 128)), ((64, 64), (96, 64))])
def test_a_checkpoint_of_another_size_is_resized_as_the_network_would_be(
    name: str, source: tuple[int, int], target: tuple[int, int], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = make(name, num_classes=2, img_size=source)
    path = tmp_path / "small.pth"
    torch.save(model.state_dict(), path)
    cfg = {"file": str(path), "num_classes": 2, "input_size": (3, *source)}
    loaded = make(name, num_classes=2, img_size=target, pretrained=True, pretrained_cfg_overlay=cfg)
    by_hand = checkpoint_filter_fn(model.state_dict(), make(name, num_classes=2, img_size=target), source)
    model.set_input_size(target)
    images = torch.randn(1, 3, *target)
    torch.testing.assert_close(loaded(images), model(images))
    assert all(torch.equal(by_hand[key], tensor) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", SMALL)
def test_an_unknown_size_is_found_where_it_is_square_or_of_the_same_shape(name: str) -> None:
    for source, target in (((64, 64), (96, 32)), ((96, 192), (64, 128))):
        state = make(name, img_size=source).state_dict()
        network = make(name, img_size=target)
        network.load_state_dict(checkpoint_filter_fn(state, network))
    network = make(name, img_size=(64, 64))
    with pytest.raises(UserError, match=r"image size .* cannot be told .* give the \(height, width\)"):
        checkpoint_filter_fn(make(name, img_size=(32, 160)).state_dict(), network)
    with pytest.raises(UserError, match=r"image size \(96, 96\) .* does not fit"):
        checkpoint_filter_fn(make(name, img_size=(32, 160)).state_dict(), network, (96, 96))


def test_a_folder_of_timms_says_its_own_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = make("container_tiny", num_classes=2, img_size=(64, 96))
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    other = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, img_size=(32, 64)).eval()
    model.set_input_size((32, 64))
    images = torch.randn(1, 3, 32, 64)
    torch.testing.assert_close(other(images), model(images))


def test_positions_are_resized_as_timm_resizes_them() -> None:
    """Bicubic with antialias, where it makes a difference: to a smaller grid."""
    torch.manual_seed(0)
    state = make("container_tiny", img_size=(224, 224)).state_dict()
    got = checkpoint_filter_fn(state, make("container_tiny", img_size=(64, 96)))
    for stage, old, new in ((0, (56, 56), (16, 24)), (2, (14, 14), (4, 6))):
        name = f"stages.{stage}.position.embedding"
        expected = resample_abs_pos_embed(state[name], new, old, num_prefix_tokens=0)
        torch.testing.assert_close(got[name], expected)
        coarse = resample_abs_pos_embed(state[name], new, old, num_prefix_tokens=0, antialias=False)
        assert not torch.allclose(got[name], coarse, atol=1e-3)


def test_names_alone_leave_a_state_as_it_is() -> None:
    model = make("container_light_tiny")
    state = model.state_dict()
    assert checkpoint_filter_fn(state, model) is state
    filters: list[Callable] = [model.checkpoint_filter_fn, make("deit_small_pam").checkpoint_filter_fn]
    assert filters == [checkpoint_filter_fn] * 2
