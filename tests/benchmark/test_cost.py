import timm
import torch
from torch import nn

import contagg
from contagg.benchmark.cost import multiply_adds, parameter_count


def test_a_convolution_and_a_linear_layer_by_hand() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 5, padding=2, groups=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 11)
    )
    assert multiply_adds(network, (7, 13)) == 7 * 13 * 8 * 3 * 25 + 8 * 11
    assert parameter_count(network) == 8 * 75 + 8 + 88 + 11
    network[0].requires_grad_(False)
    assert parameter_count(network, trainable_only=True) == 99


def test_attention_is_counted_by_hand() -> None:
    """One block more of H-DeiT-S's last stage: four projections, two MLP layers, Q K^T and A V."""
    costs = [
        multiply_adds(contagg.create("container_attention", depths=(1, 1, 1, depth)), (160, 96)) for depth in (1, 2)
    ]
    tokens, width = 5 * 3, 512
    assert costs[1] - costs[0] == tokens * width**2 * 12 + 2 * tokens**2 * width


def test_counts_agree_with_the_literature() -> None:
    assert round(multiply_adds(timm.create_model("resnet50")) / 1e9, 2) == 4.09
    assert round(multiply_adds(contagg.create("container_v1_light")) / 1e9, 1) == 3.8


def test_counting_leaves_the_model_as_it_was() -> None:
    model = contagg.create("container_tiny").train()
    multiply_adds(model, (64, 64))
    assert model.training and next(model.parameters()).device == torch.device("cpu")
