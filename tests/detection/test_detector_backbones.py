"""Detectors on backbones: ours and timm's, frozen and trained, with and without recomputing."""

import copy
import math

import pytest
import torch
from test_detectors import DETECTORS, batch, tiny

from contagg.detection.backbone import Features
from contagg.detection.detectors import features_of
from contagg.errors import UserError


def test_frozen_norms_stay_frozen() -> None:
    model = tiny("retinanet", norm="frozen", init_weights="a file", drop_path=0.0)
    features = model.network.backbone.features
    model.train()
    before = copy.deepcopy(features.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    sum(model(*batch()).values()).backward()
    optimizer.step()
    norms = [name for name, module in features.named_modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) == 10 and model.training and features.training
    for name, value in features.state_dict().items():
        if any(name.startswith(f"{norm}.") for norm in norms):
            assert torch.equal(value, before[name]), name
    moved = [name for name, value in features.state_dict().items() if not torch.equal(value, before[name])]
    assert sum("mlp.fc1.weight" in name for name in moved) == 5


def test_norms_train_where_they_should() -> None:
    features = tiny("retinanet").network.backbone.features
    before = copy.deepcopy(features.state_dict())
    features(torch.rand(2, 3, 64, 64))
    assert any(
        not torch.equal(value, before[name]) for name, value in features.state_dict().items() if "running" in name
    )


def test_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = tiny("retinanet", checkpointing=checkpointing, drop_path=0.0).double()
        sum(model(*batch()).values()).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("name", ["resnet18", "pvt_v2_b0", "swin_tiny_patch4_window7_224"])
def test_timm_backbones_serve(name: str) -> None:
    options = {"strict_img_size": False} if name.startswith("swin") else {}
    features = Features(name, (4, 8, 16, 32), frozen=False, **options).eval()
    with torch.no_grad():
        maps = features(torch.rand(1, 4, 96, 64))
    assert [tuple(level.shape[1:]) for level in maps] == [
        (channels, 96 // stride, 64 // stride)
        for channels, stride in zip(features.channels, (4, 8, 16, 32), strict=True)
    ]


def test_of_maps_of_one_stride_the_last_is_taken() -> None:
    options = {
        "patch_sizes": (4, 2, 1, 1),
        "embed_dims": (16, 32, 48, 64),
        "depths": (1, 1, 1, 1),
        "affinity": "dwconv3",
    }
    features = Features("container_light_tiny", [4, 8], frozen=False, **options)
    assert [level.shape[1:] for level in features(torch.randn(1, 3, 40, 56))] == [(16, 10, 14), (64, 5, 7)]


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet50", {"zero_init_last": False}),  # a residual branch that starts at zero hands no gradient on
        ("pvt_v2_b0", {}),
        ("swin_tiny_patch4_window7_224", {"strict_img_size": False}),
    ],
)
def test_the_other_rows_of_table_4_train(name: str, options: dict[str, bool], detector: str) -> None:
    """They are another name in the same recipe."""
    model = tiny(detector, backbone=name, options=options, drop_path=0.0)
    losses = model(*batch())
    assert all(math.isfinite(loss.item()) for loss in losses.values())
    sum(losses.values()).backward()
    still = [key for key, p in features_of(model).named_parameters() if p.grad is None or not p.grad.any()]
    assert not still


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_tiny_patch16_224", r"has features at strides \[16, 16, 16\]; a pyramid needs \[8, 16, 32\]"),
        ("container_lihgt", "unknown model 'container_lihgt'. Did you mean 'container_light'"),
    ],
)
def test_backbones_that_cannot_serve_are_named(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny("retinanet", backbone=name)


def test_p6_comes_from_c5_also_where_channels_agree() -> None:
    network = tiny("retinanet", pyramid_channels=192).network
    assert network.backbone.pyramid.extra_blocks.p6.in_channels == 192
    maps = network.eval().backbone.features(torch.rand(1, 3, 64, 64))
    levels = network.backbone(torch.rand(1, 3, 64, 64))
    assert len(maps) == 3 and list(levels) == ["0", "1", "2", "p6", "p7"]
    with torch.no_grad():
        image = torch.rand(1, 3, 64, 64)
        c5 = network.backbone.features(image)[-1]
        extra, levels = network.backbone.pyramid.extra_blocks, network.backbone(image)
        torch.testing.assert_close(levels["p6"], extra.p6(c5))
        torch.testing.assert_close(levels["p7"], extra.p7(extra.p6(c5).relu()))
