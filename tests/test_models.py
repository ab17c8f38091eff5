"""timm's conventions, over every registered network; the large ones at small image sizes."""

import copy
import doctest
import io
from collections.abc import Callable
from types import ModuleType

import pytest
import timm
import torch
from timm.layers.norm_act import freeze_batch_norm_2d
from timm.models import model_parameters
from torch import Tensor, nn

import contagg
import contagg.models
import contagg.nn.network
import contagg.nn.vit
from contagg.errors import UserError
from contagg.models import CONFIGS

NAMES = [*CONFIGS, "vit_tiny_mixer", "deit_small_pam"]
SIZE = 64


def small(name: str, **arguments: object) -> nn.Module:
    torch.manual_seed(0)
    return contagg.create(name, **{"num_classes": 7, "img_size": SIZE, **arguments})


@pytest.mark.parametrize("name", NAMES)
def test_forward_and_a_gradient_in_every_parameter(name: str) -> None:
    model = small(name, drop_path_rate=0.0).train()
    assert name in timm.list_models(name)
    logits = model(torch.randn(2, 3, SIZE, SIZE))
    assert logits.shape == (2, 7) and logits.isfinite().all()
    logits.square().mean().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # Adding the same number to all scores of a softmax changes nothing: a key's bias has no gradient but rounding.
    assert [n for n in without if not n.endswith("key.bias")] == []


@pytest.mark.parametrize("name", CONFIGS)
def test_features_have_their_declared_channels_and_strides(name: str) -> None:
    model = small(name, features_only=True).eval()
    features = model(torch.randn(1, 3, SIZE, SIZE))
    assert model.feature_info.reduction() == [4, 8, 16, 32]
    for feature, channels, stride in zip(
        features, model.feature_info.channels(), model.feature_info.reduction(), strict=True
    ):
        assert feature.shape == (1, channels, SIZE // stride, SIZE // stride)


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_deepcopy_and_half_precision(name: str) -> None:
    # A block of each stage, unless each has a word of its own: float16 is slow on a CPU, and a scan, a product of
    # three functions of the tokens, grows with each block until its norms have statistics.
    alike = name in CONFIGS and all(len(set(words)) == 1 for words in CONFIGS[name].blocks)
    shorter = {"depths": (1, 1, 1, 1)} if alike else {}
    model = small(name, **shorter).eval()
    images = torch.randn(1, 3, SIZE, SIZE)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other = contagg.create(name, num_classes=7, img_size=SIZE, **shorter).eval()
    other.load_state_dict(torch.load(buffer, weights_only=True))
    with torch.no_grad():
        expected = model(images)
        assert torch.equal(other(images), expected)
        assert torch.equal(copy.deepcopy(model)(images), expected)
        check_half_precision(model, images, expected)


def check_half_precision(model: nn.Module, images: Tensor, expected: Tensor) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        half = copy.deepcopy(model).to(dtype)(images.to(dtype))
        assert half.dtype == dtype
        assert (half.float() - expected).norm() < 0.1 * expected.norm() + 0.02


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "vmamba_like"])
def test_half_precision_through_every_block(name: str) -> None:
    model, images = small(name).eval(), torch.randn(1, 3, SIZE, SIZE)
    with torch.no_grad():
        check_half_precision(model, images, model(images))


STATIC = [name for name, config in CONFIGS.items() if "token mlp" in str(config.affinity)]


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in STATIC])
def test_any_size_is_served(name: str) -> None:
    model = small(name, features_only=True).eval()
    for height, width in ((37, 83), (1, 1), (96, 40)):
        features = model(torch.randn(1, 3, height, width))
        for feature, stride in zip(features, model.feature_info.reduction(), strict=True):
            assert feature.shape[2:] == (-(-height // stride), -(-width // stride))


@pytest.mark.parametrize("name", [*STATIC, "deit_small_pam"])
def test_a_dense_static_affinity_names_the_size_it_cannot_serve_and_can_be_resized(name: str) -> None:
    model = small(name).eval()
    images = torch.randn(1, 3, 96, 32)
    with pytest.raises((UserError, AssertionError), match=r"cannot serve 24 x 8|Input height"):
        model(images)
    model.set_input_size((96, 32))
    assert model(images).shape == (1, 7)


@pytest.mark.parametrize("name", NAMES)
def test_in_chans(name: str) -> None:
    assert small(name, in_chans=1)(torch.randn(2, 1, SIZE, SIZE)).shape == (2, 7)


def test_wrong_channels_are_named() -> None:
    with pytest.raises(UserError, match=r"shape \(2, 1, 64, 64\) given, \(batch, 3, height, width\) expected"):
        small("container_light_tiny")(torch.randn(2, 1, 64, 64))


def test_stages_are_chosen_and_pruned() -> None:
    images = torch.randn(1, 3, 64, 96)
    whole = small("container_light_tiny", features_only=True).eval()
    chosen = small("container_light_tiny", features_only=True, out_indices=(0, 2)).eval()
    assert chosen.feature_info.channels() == [32, 128] and len(chosen.model.stages) == 3
    chosen.load_state_dict({k: v for k, v in whole.state_dict().items() if k in chosen.state_dict()})
    for got, expected in zip(chosen(images), [whole(images)[i] for i in (0, 2)], strict=True):
        assert torch.equal(got, expected)


def test_forward_intermediates_and_head_agree_with_forward() -> None:
    model = small("container_light_tiny").eval()
    images = torch.randn(2, 3, 48, 80)
    final, maps = model.forward_intermediates(images, norm=True)
    assert torch.equal(final, model.forward_features(images)) and torch.equal(maps[-1], final)
    assert torch.equal(model.forward_head(final), model(images))
    assert model.forward_head(final, pre_logits=True).shape == (2, 192)
    early = model.forward_intermediates(images, indices=[1], stop_early=True, intermediates_only=True)
    assert torch.equal(early[0], maps[1])


def test_classifier_can_be_replaced_and_removed() -> None:
    model = small("container_light_tiny").eval()
    images = torch.randn(2, 3, 32, 32)
    assert model.get_classifier().out_features == 7
    model.reset_classifier(11)
    assert model(images).shape == (2, 11)
    assert small("container_light_tiny", num_classes=0)(images).shape == (2, 192)
    assert small("container_light_tiny", num_classes=0, global_pool="")(images).shape == (2, 192, 1, 1)
    assert small("container_light_tiny", global_pool="max")(images).shape == (2, 7)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    model = small("container_tiny")
    images = torch.randn(2, 3, 32, 32)
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(images).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain)


@pytest.mark.parametrize("convert", [nn.SyncBatchNorm.convert_sync_batchnorm, freeze_batch_norm_2d])
@pytest.mark.parametrize("name", ["container_light_tiny", "container_tiny"])
def test_what_replaces_batch_norms_fits(name: str, convert: Callable[[nn.Module], nn.Module]) -> None:
    """Synchronized ones, as `run.synchronize_batchnorm` and DDP scripts make them, and timm's frozen ones."""
    model = small(name).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
    images = torch.randn(2, 3, 48, 80)
    expected = model(images)
    converted = convert(copy.deepcopy(model))
    assert not any(type(module) is nn.BatchNorm2d for module in converted.modules())
    torch.testing.assert_close(converted(images), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(contagg.fuse(converted)(images), expected, rtol=1e-4, atol=1e-5)
    assert converted.train()(images).shape == (2, 7)


def test_stochastic_depth_grows_linearly() -> None:
    model = small("container_light_tiny", drop_path_rate=0.2)
    rates = [block.drop_path1.drop_prob for stage in model.stages for block in stage.blocks]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_parameter_groups_cover_every_parameter_in_order_of_depth() -> None:
    from timm.models import group_parameters

    model = small("container_tiny")
    for coarse in (False, True):
        groups = group_parameters(model, model.group_matcher(coarse), reverse=True)
        assert set(groups) == {name for name, _ in model.named_parameters()}
        assert groups["stages.0.embedding.projection.weight"] == 0
        assert groups["head.fc.weight"] == max(groups.values())
        assert groups["stages.1.blocks.0.mlp.fc1.weight"] < groups["stages.2.blocks.0.mlp.fc1.weight"]
    assert model.no_weight_decay() == {f"stages.{i}.position.embedding" for i in range(4)}
    assert len(list(model_parameters(model, exclude_head=True))) == len(list(model.parameters())) - 2


def test_a_network_is_described_by_words() -> None:
    model = small("container_light", affinity="dwconv3", depths=(1, 1, 1, 1))
    kernels = [block.aggregation.affinity.kernel_size for stage in model.stages for block in stage.blocks]
    assert kernels == [3, 3, 3, 3]


def test_hub_folder_is_pushed_and_pulled(tmp_path) -> None:
    from timm.models import save_for_hf

    model = small("container_light_tiny", affinity="dwconv3").eval()
    save_for_hf(model, tmp_path, safe_serialization="both")
    pulled = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(pulled(images), model(images))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "container_lite"}, r"unknown model 'container_lite'. Did you mean 'container_light'\?"),
        ({"name": "container", "affinity": "atention"}, "Did you mean 'attention'"),
        ({"name": "container", "affinity": ("dwconv3", "dwconv3")}, "one word, or 4, one a stage"),
        ({"name": "container", "depths": (1, 2, 3)}, r"depths \(1, 2, 3\) must be 4 positive whole numbers"),
        ({"name": "container", "position": "relative"}, "must be one of absolute, cpe"),
        ({"name": "container", "gate": "sigmoyd"}, "Did you mean 'sigmoid'"),
        ({"name": "container", "drop_path_ratte": 0.1}, "no argument 'drop_path_ratte'. Did you mean 'drop_path_rate'"),
        ({"name": "container", "widths": (8, 8, 8, 8)}, "'widths' is called 'embed_dims'"),
        ({"name": "container", "patches": (4, 2, 2, 2)}, "'patches' is called 'patch_sizes'"),
        ({"name": "container", "position": "convolution"}, "'convolution' is called 'cpe'"),
        ({"name": "container_tiny", "img_size": "big"}, "img_size 'big' must be a whole number of pixels, or"),
        ({"name": "container_tiny", "img_size": (32, 0)}, r"img_size \(32, 0\) must be"),
        ({"name": "container_tiny", "num_classes": -1}, "num_classes -1 must be a whole number, 0 for no classifier"),
        ({"name": "container_tiny", "num_classes": True}, "num_classes True must be"),
        ({"name": "container_tiny", "in_chans": "rgb"}, "in_chans 'rgb' must be a whole number from 1 on"),
        ({"name": "container_tiny", "drop_rate": 1}, "drop_rate 1 must be a number from 0 up to, but not, 1"),
        ({"name": "container_tiny", "drop_path_rate": "0.1"}, "drop_path_rate '0.1' must be a number"),
        ({"name": "container_tiny", "global_pool": "mean"}, "Invalid pool type: mean"),
        ({"name": "container_tiny", "global_pool": 3}, "global_pool 3 must be a word"),
        ({"name": "container_tiny", "features_only": True, "out_indices": (0, 7)}, "index 7 is out of range"),
        ({"name": "container_tiny", "output_stride": 16}, r"no argument 'output_stride'; patch_sizes=\(4, 2, 2, 1\)"),
        ({"name": "container_tiny", "pretrained": True}, "No pretrained weights exist for container_tiny"),
        (
            {"name": "container_tiny", "checkpoint_path": "none.pth"},
            "checkpoint_path 'none.pth': there is no such file",
        ),
        ({"name": "deit_small_pam", "num_head": 3}, "no argument 'num_head'. Did you mean 'num_heads'"),
        ({"name": "deit_small_pam", "depth": 0}, "depth 0 must be a whole number from 1 on"),
        ({"name": "deit_small_pam", "num_heads": 5}, "embed_dim 384 must be divisible by num_heads 5"),
        ({"name": "deit_small_pam", "class_token": False}, "Token pooling needs the class token"),
        ({"name": 5}, "model 5 must be a name"),
    ],
)
def test_wrong_requests_are_answered(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        contagg.create(**arguments)


@pytest.mark.parametrize("module", [contagg.models, contagg.nn.vit, contagg.nn.network])
def test_examples_run(module: ModuleType) -> None:
    found = doctest.testmod(module)
    assert found.attempted and not found.failed
