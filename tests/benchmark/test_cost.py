import time

import pytest
import timm
import torch
from torch import nn

import contagg
from contagg.benchmark.cost import (
    Spread,
    interleaved,
    keep_freed_memory,
    measure,
    multiply_adds,
    parameter_count,
    peak_bytes,
    product,
)

CPU = torch.device("cpu")


def test_quartiles() -> None:
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(2.0, 3.0, 4.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


def test_rounds_take_every_work_in_turn_after_a_warm_up() -> None:
    calls: list[str] = []
    works = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    assert list(interleaved(works, 3, CPU)) == ["a", "b"]
    assert calls == ["a", "b"] * 4


def test_seconds_are_seconds() -> None:
    assert 0.02 <= measure(lambda: time.sleep(0.02), CPU) < 2


def test_peak_is_of_what_lives_at_once() -> None:
    def work() -> None:
        for _ in range(3):
            first = torch.ones(1000, 1000)
            second = first + 1
            del first, second

    held = torch.ones(500, 1000)
    assert peak_bytes(work, CPU) == pytest.approx(8e6, rel=0.01)
    assert len(held) == 500


def test_a_product_counts_its_multiply_adds() -> None:
    work, products = product(CPU, torch.float32, seconds=1e-4)
    result = work()
    assert isinstance(result, torch.Tensor) and products == result.shape[0] ** 3 >= 128**3


def test_keeping_memory_says_whether_it_works() -> None:
    assert keep_freed_memory() in (True, False)


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
