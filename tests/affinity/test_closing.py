"""The dynamic part of a mixture closed: what is computed, what is left, and that leaving it for good is the same."""

import copy

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from contagg.affinity import Mixture, Site, build_affinity
from contagg.affinity.base import by_matrix
from contagg.nn.aggregation import Aggregation, build_aggregation

GRID, CHANNELS = (5, 7), 64
SITE = Site(channels=CHANNELS, grid=GRID)
WORDS = ["attention + dwconv3", "dwconv3 + attention", "attention + token mlp/32", "window2/8 + pool3"]
GATES = ["free", "free/head", "sigmoid", "sum"]


def aggregation(word: str, gate: str) -> Aggregation:
    torch.manual_seed(0)
    made = build_aggregation(word, SITE, gate)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter) / 4)
    return made


def tokens() -> Tensor:
    return torch.randn(3, GRID[0] * GRID[1], CHANNELS, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("word", WORDS)
def test_closed_is_opened_by_zero_and_left_for_good(word: str, gate: str) -> None:
    made, x = aggregation(word, gate), tokens()
    mixture = made.closable()
    assert mixture is not None
    whole = made(x, GRID)
    mixture.open(torch.zeros(1))
    by_zero = made(x, GRID)
    mixture.close()
    closed = made(x, GRID)
    assert (whole - closed).abs().max() > 1e-2
    torch.testing.assert_close(closed, by_zero)
    torch.testing.assert_close(mixture(x, x, GRID), by_matrix(mixture, x, x, GRID))
    made.leave_static()
    torch.testing.assert_close(made(x, GRID), closed)
    assert made.closable() is None and "query" not in " ".join(made.state_dict())


@pytest.mark.parametrize("word", WORDS)
def test_z_weighs_the_dynamic_part_alone_in_the_sum_its_rows_and_its_gradient(word: str) -> None:
    made, x = aggregation(word, "free"), tokens()
    mixture = made.closable()
    assert mixture is not None
    (static, weight), dynamic = mixture.static_part(), mixture.dynamic_part()
    assert dynamic.dynamic and not static.dynamic and weight is not None
    alpha = mixture.gate()[0 if mixture.dynamic_first else 1]
    z = torch.tensor([0.25], requires_grad=True)
    mixture.open(z)
    expected = alpha * 0.25 * dynamic(x, x, GRID) + weight * static(x, x, GRID)
    torch.testing.assert_close(mixture(x, x, GRID), expected)
    torch.testing.assert_close(by_matrix(mixture, x, x, GRID), expected)
    mixture(x, x, GRID).sum().backward()
    torch.testing.assert_close(z.grad, (alpha * dynamic(x, x, GRID)).sum().view(1), rtol=1e-3, atol=1e-3)
    mixture.open()
    torch.testing.assert_close(mixture(x, x, GRID), alpha * dynamic(x, x, GRID) + weight * static(x, x, GRID))


def test_a_closed_block_computes_no_queries_and_keys() -> None:
    made, x = aggregation("attention + dwconv3", "free"), tokens()[:1]

    def counted() -> int:
        with FlopCounterMode(display=False) as counter:
            copy.deepcopy(made).to("meta")(x.to("meta"), GRID)
        return counter.get_total_flops() // 2

    mixture = made.closable()
    assert mixture is not None
    opened, of_dynamic = counted(), mixture.dynamic_part().multiply_adds(GRID)
    assert of_dynamic > CHANNELS**2 * 2 * GRID[0] * GRID[1]
    mixture.close()
    assert counted() == opened - of_dynamic
    assert mixture.multiply_adds(GRID) == mixture.static_part()[0].multiply_adds(GRID)
    query = mixture.dynamic_part().query
    query.register_forward_hook(lambda *_: pytest.fail("it computes queries"))  # type: ignore[operator, union-attr]
    made(x, GRID)


@pytest.mark.parametrize("word", ["attention", "dwconv3", "attention + window2/8", "dwconv3 + pool3"])
def test_nothing_is_to_be_closed_where_not_one_of_two_is_dynamic(word: str) -> None:
    assert build_affinity(word, SITE).closable() is None
    assert Aggregation(CHANNELS, build_affinity(word, SITE)).closable() is None


def test_a_convolution_that_mixes_channels_has_nothing_to_close() -> None:
    assert build_aggregation("full-conv3", SITE).closable() is None
    assert isinstance(build_affinity("attention + dwconv3", SITE).closable(), Mixture)
