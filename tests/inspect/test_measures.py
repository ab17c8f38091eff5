"""The numbers of a layer where the answer is known."""

import math

import pytest
import torch
from made_layers import GRID, N, layer, sizes

from contagg.affinity.bands import Band
from contagg.affinity.forms import Dense
from contagg.errors import UserError
from contagg.inspect.measures import measure, spread_places
from contagg.inspect.sizes import mean_sizes


def test_uniform_attention_is_spread_everywhere_and_of_rank_one() -> None:
    found = measure(layer(Dense(matrix=torch.full((2, N, N), 1 / N))))
    assert found.entropy == pytest.approx(1) and found.rank * len(spread_places(GRID, 128)) == pytest.approx(1, abs=0.1)
    assert found.toeplitz == pytest.approx(1) and not found.sinks


def test_the_identity_is_local_and_of_full_rank() -> None:
    found = measure(layer(Dense(matrix=torch.eye(N)[None])))
    assert (found.distance, found.entropy, found.within3) == pytest.approx((0, 0, 1))
    assert found.rank == pytest.approx(1) and found.toeplitz == pytest.approx(1)


def test_a_convolution_is_toeplitz_and_random_rows_are_not() -> None:
    torch.manual_seed(0)
    kernel = torch.zeros(1, 5, 5)
    kernel[0, 2, 4] = 1  # two to the right
    assert measure(layer(Band(kernel=kernel, grid=GRID, padding="circular"))).toeplitz > 0.8
    assert measure(layer(Dense(matrix=torch.rand(1, N, N) ** 30))).toeplitz < 0.3


def test_a_sink_and_a_class_token_are_told_of() -> None:
    matrix = torch.full((1, N + 1, N + 1), 0.1 / N)
    matrix[..., 1 + 2 * 11 + 3] = 0.5
    matrix[..., 0] = 0.4
    found = measure(layer(Dense(matrix=matrix), prefix=1))
    assert [sink[:2] for sink in found.sinks] == [(2, 3)]
    assert found.registers == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize("grid", [(7, 11), (1, 5), (64, 64), (3, 200)])
def test_places_are_spread_and_not_too_many(grid: tuple[int, int]) -> None:
    places = spread_places(grid, 16)
    assert 0 < len(places) <= 16 and len(places.unique(dim=0)) == len(places)
    assert (places >= 0).all() and (places < torch.tensor(grid)).all()


def test_weights_that_are_not_finite_are_refused() -> None:
    """As those of a network whose training has diverged; the residual tells where a softmax shuts NaN out."""
    rows = torch.full((1, N, N), 1 / N)
    for broken in (layer(Dense(matrix=rows * math.nan)), layer(Dense(matrix=rows), residual=math.nan)):
        with pytest.raises(UserError, match=r"not finite .* diverged"):
            measure(broken)


@pytest.mark.parametrize("normalised", [False, True])
def test_products_with_sizes_are_those_of_matrices(normalised: bool) -> None:
    torch.manual_seed(0)
    forms = Band(kernel=torch.randn(3, 3, 3), grid=GRID), Dense(matrix=torch.randn(2, N, N))
    matrix = sum(0.5 * sizes(form) for form in forms)
    if normalised:
        matrix = matrix / matrix.sum(1, keepdim=True)
    weights = torch.rand(4, N)
    torch.testing.assert_close(mean_sizes(layer(*forms), weights, normalised=normalised), weights @ matrix)
