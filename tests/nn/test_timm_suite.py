"""What timm asks of each of its networks, asked of ours: small ones of the same words, over every registered name."""

import warnings
from typing import Any

import pytest
import timm
import torch
from timm import set_scriptable
from timm.layers import Format
from timm.models import get_notrace_functions, get_notrace_modules
from torch import nn
from torch.export import Dim
from torch.func import functional_call, grad, vmap
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import contagg
from contagg.errors import UserError
from contagg.models import CONFIGS
from contagg.nn.vit import VITS

NETWORK = {"embed_dims": (32, 32, 64, 64), "depths": (1, 1, 1, 1), "mlp_ratios": (1, 1, 1, 1)}
TRANSFORMER = {"embed_dim": 96, "depth": 2, "num_heads": 3}
NAMES = [*CONFIGS, *VITS]
ONE_OF_EACH = ["container_light_tiny", "container_tiny", "container_mh_mlp_lr", "vit_tiny_mixer", "deit_small_pam"]
ANY_SIZE = ["container_light_tiny", "container_tiny"]


def make(name: str, **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    sizes = TRANSFORMER if name in VITS else {**NETWORK, "affinity": [words[-1] for words in CONFIGS[name].blocks]}
    return contagg.create(name, **{"num_classes": 5, **sizes, **arguments}).eval()


def images(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NAMES)
def test_the_pretrained_cfg_is_true(name: str) -> None:
    model = make(name)
    cfg = model.pretrained_cfg
    assert f"{cfg['first_conv']}.weight" in model.state_dict() and f"{cfg['classifier']}.weight" in model.state_dict()
    with torch.no_grad():
        features = model.forward_features(torch.zeros(1, *cfg["input_size"]))
        if cfg["pool_size"]:
            assert features.shape == (1, model.num_features, *cfg["pool_size"])
        other = torch.zeros(1, 3, 96, 96)
        if cfg["fixed_input_size"]:
            with pytest.raises((UserError, AssertionError)):
                model(other)
        else:
            assert model(other).shape == (1, 5)
    assert timm.models.get_pretrained_cfg(name).fixed_input_size == cfg["fixed_input_size"]


def test_another_mixer_decides_whether_the_size_is_fixed() -> None:
    """timm reads it off the network, not off the name."""
    fixed = make("container_light_tiny", affinity="token mlp", img_size=32)
    free = make("container_mlp", affinity="dwconv3", img_size=32)
    sizes = [timm.models._input.get_model_input_config(model)["fixed_input_size"] for model in (fixed, free)]
    assert sizes == [True, False]


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "catavgmax"])
def test_head_and_features_without_it(name: str, pool: str) -> None:
    if name in VITS and pool == "catavgmax":
        with pytest.raises(UserError, match="Only avg, avgmax, max"):
            make(name, global_pool=pool)
        return
    model = make(name, global_pool=pool, img_size=64)
    batch = images(2, 3, 64, 64)
    pooled = model.forward_head(model.forward_features(batch), pre_logits=True)
    assert pooled.shape == (2, model.head_hidden_size)
    model.reset_classifier(0)
    torch.testing.assert_close(model(batch), pooled)
    model.reset_classifier(3)
    assert model(batch).shape == (2, 3)
    assert make(name, num_classes=0, global_pool="", img_size=64)(batch).shape == model.forward_features(batch).shape


# torch.jit.script is deprecated: scans, which are steps and chunks, speak to torch.compile and torch.export alone.
@pytest.mark.parametrize("name", [name for name in NAMES if name != "vmamba_like"])
def test_torchscript(name: str) -> None:
    with set_scriptable(True):
        model = make(name, img_size=64)
    scripted = torch.jit.script(model)
    batch = images(2, 3, 64, 64)
    torch.testing.assert_close(scripted(batch), model(batch))


def traced(model: nn.Module) -> nn.Module:
    given = {"leaf_modules": get_notrace_modules(), "autowrap_functions": get_notrace_functions()}
    train, evaluation = get_graph_node_names(model, tracer_kwargs=given)
    return create_feature_extractor(
        model, train_return_nodes=train[-1:], eval_return_nodes=evaluation[-1:], tracer_kwargs=given
    )


@pytest.mark.parametrize("name", NAMES)
def test_torch_fx_follows_it(name: str) -> None:
    model = make(name, img_size=64)
    graph = traced(model)
    batch = images(2, 3, 64, 64)
    [answer] = graph(batch).values()
    assert torch.equal(answer, model(batch))
    if name in ONE_OF_EACH:
        torch.testing.assert_close(next(iter(torch.jit.script(graph)(batch).values())), answer)
    [answer] = graph.train()(batch).values()
    answer.mean().backward()
    assert all(parameter.grad is not None for parameter in graph.parameters())


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_made_on_meta_and_in_another_precision(name: str) -> None:
    with torch.device("meta"):
        model = make(name, img_size=64)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert model(torch.zeros(2, 3, 64, 64, device="meta")).shape == (2, 5)
    model = make(name, img_size=64, device="meta", dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.float64)}


@pytest.mark.parametrize("side", [48, 96])
def test_gradients_of_each_image_by_vmap(side: int) -> None:
    """96 pixels are enough for the package's own gradient of depthwise kernels."""
    model = make("container_light_tiny", embed_dims=(160, 32, 32, 32))
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(parameters: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
        return functional_call(model, parameters, (image[None],)).square().sum()

    batch = images(3, 3, side, side)
    together = vmap(grad(loss), in_dims=(None, 0))(parameters, batch)
    for index, image in enumerate(batch):
        model.zero_grad()
        model(image[None]).square().sum().backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(together[name][index], parameter.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ANY_SIZE)
def test_a_trace_serves_other_batches_and_sizes(name: str) -> None:
    model = make(name, img_size=64)
    graph = torch.jit.trace(model, images(2, 3, 64, 64))
    for shape in ((1, 3, 37, 83), (3, 3, 96, 160), (2, 3, 64, 64)):
        torch.testing.assert_close(graph(images(*shape)), model(images(*shape)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ANY_SIZE)
def test_exported_in_grad_mode_for_any_batch_and_size(name: str) -> None:
    assert torch.is_grad_enabled()
    model = make(name, img_size=64, embed_dims=(128, 32, 32, 32))  # large enough for the package's own gradient
    sizes = {0: Dim("batch"), 2: Dim("height", min=33), 3: Dim("width", min=33)}
    program = torch.export.export(
        model, (images(2, 3, 128, 96),), dynamic_shapes=(sizes,), prefer_deferred_runtime_asserts_over_guards=True
    ).module()
    for shape in ((1, 3, 37, 83), (3, 3, 64, 160)):
        torch.testing.assert_close(program(images(*shape)), model(images(*shape)), rtol=1e-4, atol=1e-5)


def test_intermediates_with_channels_last() -> None:
    model = make("container_light_tiny")
    batch = images(2, 3, 40, 72)
    for got, expected in zip(
        model.forward_intermediates(batch, output_fmt="NHWC", intermediates_only=True),
        model.forward_intermediates(batch, output_fmt=str(Format.NCHW.value), intermediates_only=True),
        strict=True,
    ):
        assert torch.equal(got, expected.permute(0, 2, 3, 1))
    with pytest.raises(UserError, match=r"'NLC'.*'NCHW' or 'NHWC'"):
        model.forward_intermediates(batch, output_fmt="NLC")


@pytest.mark.parametrize("name", ["container_tiny", "vit_tiny_mixer", "deit_small_pam"])
@pytest.mark.parametrize("rate", ["attn_drop_rate", "proj_drop_rate", "drop_rate", "drop_path_rate"])
def test_dropout_acts_in_training_alone(name: str, rate: str) -> None:
    plain, dropping = make(name, img_size=64), make(name, img_size=64, **{rate: 0.5})
    for module in (*plain.modules(), *dropping.modules()):
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0  # its statistics stay
    batch = images(4, 3, 64, 64)
    assert torch.equal(plain(batch), dropping(batch))
    assert torch.equal(plain.train()(batch), plain(batch))
    assert not torch.allclose(dropping.train()(batch), plain(batch), rtol=1e-3, atol=1e-3)


def test_one_position_alone_is_named_where_batch_norm_cannot_train() -> None:
    model = make("container_light_tiny").train()
    with pytest.raises(UserError, match=r"one image of 32 x 20 is one position in the last stage.*more than 32 pixels"):
        model(images(1, 3, 32, 20))
    with pytest.raises(UserError, match="one image of 32 x 32"):
        model.forward_intermediates(images(1, 3, 32, 32))
    assert model(images(2, 3, 32, 32)).shape == model(images(2, 3, 32, 32)).shape == (2, 5)
    assert model(images(1, 3, 33, 32)).shape == (1, 5)
    with pytest.raises(UserError, match="one image of 32 x 32"):
        make("container_light_tiny", norm_placement="res_post").train()(images(1, 3, 32, 32))
    features = make("container_light_tiny", features_only=True, out_indices=(0, 1)).train()
    assert [tuple(found.shape) for found in features(images(1, 3, 16, 16))] == [(1, 32, 4, 4), (1, 32, 2, 2)]
    assert model.eval()(images(1, 3, 32, 32)).shape == (1, 5)


def test_an_image_size_off_the_stride_is_told() -> None:
    with pytest.warns(UserWarning, match="img_size 30 x 30 is no multiple of the stride of 32"):
        make("container_light_tiny", img_size=30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make("container_light_tiny", img_size=30, patch_sizes=(2, 1, 1, 1))


def test_untrained_scans_do_not_overflow() -> None:
    """A selective scan's A grows with the square of its tokens, and untrained BatchNorm leaves them as they are."""
    for seed in range(3):
        torch.manual_seed(seed)
        model = contagg.create(
            "vmamba_like", embed_dims=(16, 16, 320, 32), depths=(1, 1, 8, 1), mlp_ratios=(1, 1, 4, 1)
        )
        with torch.no_grad():
            assert model.eval()(images(1, 3, 224, 224)).isfinite().all()
