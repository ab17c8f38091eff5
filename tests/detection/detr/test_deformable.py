"""What is set on transformers' Deformable DETR, so that it trains as the original does."""

import math

import pytest
import torch
from torch import nn
from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

from contagg.detection.config import DetectorConfig
from contagg.detection.detectors import Detector, build_detector
from contagg.detection.detr.config import SetConfig
from contagg.detection.detr.deformable import DeformableCore, group_norm_masked
from contagg.errors import UserError


@pytest.fixture(scope="module")
def original() -> Detector:
    """The original's sizes, but for fewer layers."""
    torch.manual_seed(0)
    sets = SetConfig(
        queries=300, encoder_layers=1, decoder_layers=6, feedforward=1024, class_loss="focal", class_weight=2.0
    )
    return build_detector(
        DetectorConfig(detector="deformable_detr", backbone="container_light_tiny", norm="train", detr=sets), 91
    )


def test_the_first_focal_loss_is_small(original: Detector) -> None:
    """Without the class prior it would be 14,787."""
    targets = [{"boxes": torch.tensor([[5.0, 7, 41, 50], [60, 9, 90, 70]]), "labels": torch.tensor([90, 3])}]
    losses = original.train()([torch.rand(3, 96, 128)], targets)
    assert 0 < losses["loss_class"].item() < 100


def test_it_begins_as_the_original(original: Detector) -> None:
    network, core = original.network, original.network.core
    assert torch.equal(network.class_head.bias, torch.full((91,), -math.log(99)))
    last = network.box_head[-1]
    assert not last.weight.any() and last.bias.tolist() == [0, 0, -2, -2]
    assert not core.projection.bias.any() and not core.model.reference_points.bias.any()
    layer = core.model.decoder.layers[2]
    offsets = layer.encoder_attn.sampling_offsets
    assert not offsets.weight.any() and not layer.encoder_attn.attention_weights.weight.any()
    places = offsets.bias.view(8, 4, 2)
    assert places[0].tolist() == [[1, 0], [2, 0], [3, 0], [4, 0]] and places[2, 3].tolist() == pytest.approx(
        [0, 4], abs=1e-5
    )
    for linear, limit in (
        (layer.self_attn.q_proj, math.sqrt(6 / 1024)),  # Xavier's of (768, 256)
        (layer.self_attn.o_proj, math.sqrt(6 / 512)),
        (layer.encoder_attn.value_proj, math.sqrt(6 / 512)),
        (layer.mlp.fc1, math.sqrt(6 / 1280)),
    ):
        assert 0.97 * limit < linear.weight.abs().max().item() <= limit
    assert not layer.self_attn.q_proj.bias.any() and layer.mlp.fc1.bias.any()
    queries = core.model.query_position_embeddings.weight
    assert queries.shape == (300, 512) and queries.std().item() == pytest.approx(1, abs=0.01)


def test_dropout_is_the_original_s(original: Detector) -> None:
    model = original.network.core.model
    assert model.encoder.dropout == 0
    for layer in (*model.encoder.layers, *model.decoder.layers):
        assert layer.dropout == layer.mlp.dropout == layer.mlp.activation_dropout == 0.1
    assert all(layer.self_attn.attention_dropout == 0.1 for layer in model.decoder.layers)


def test_nothing_of_the_librarys_backbone_is_left(original: Detector) -> None:
    assert not any("backbone" in name or "input_proj" in name for name, _ in original.network.core.named_parameters())


def test_sampling_passes_gradcheck() -> None:
    torch.manual_seed(1)
    value = torch.randn(2, 15, 2, 3, dtype=torch.float64, requires_grad=True)
    places = (1.2 * torch.rand(2, 5, 2, 1, 4, 2, dtype=torch.float64) - 0.1).requires_grad_()
    weights = torch.rand(2, 5, 2, 1, 4, dtype=torch.float64, requires_grad=True)
    shapes = torch.tensor([[3, 5]])
    sample = lambda *inputs: MultiScaleDeformableAttention()(  # noqa: E731
        inputs[0], shapes, [(3, 5)], torch.tensor([0]), inputs[1], inputs[2], 64
    )
    assert torch.autograd.gradcheck(sample, (value, places, weights))


def test_group_norm_leaves_padding_out() -> None:
    torch.manual_seed(2)
    norm = nn.GroupNorm(2, 6).double()
    nn.init.normal_(norm.weight)
    features, mask = torch.randn(2, 6, 5, 7).double(), torch.ones(2, 5, 7, dtype=torch.bool)
    torch.testing.assert_close(group_norm_masked(features, mask, norm), norm(features))
    mask[1, 3:], mask[1, :, 4:] = False, False
    both = group_norm_masked(features, mask, norm)
    torch.testing.assert_close(both[:1], norm(features[:1]))
    torch.testing.assert_close(both[1:, :, :3, :4], norm(features[1:, :, :3, :4]))


def test_a_width_that_groups_do_not_divide_is_named() -> None:
    with pytest.raises(UserError, match=r"model.detr.width 40 must be a multiple of 32 for Deformable DETR"):
        DeformableCore(8, SetConfig(width=40))
