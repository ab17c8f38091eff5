"""The numbers of a layer, and what a place depends on through the network, where the answer is known."""

import math

import pytest
import torch
from torch import Tensor, nn

import contagg
from contagg.affinity.bands import Band
from contagg.affinity.forms import Dense, Form
from contagg.errors import UserError
from contagg.explorer.fields import composed_fields, fields
from contagg.explorer.measures import measure, spread_places
from contagg.inspect.forms import RecordedLayer, Term
from contagg.inspect.seeing import see
from contagg.inspect.sizes import mean_sizes

GRID = (7, 11)
N = 77


def layer(*forms: Form, grid: tuple[int, int] = GRID, prefix: int = 0, residual: float | None = 0.5) -> RecordedLayer:
    terms = tuple(Term(name=f"term {index}", weight=torch.tensor([0.5]), form=form) for index, form in enumerate(forms))
    return RecordedLayer(name="a", label="a", grid=grid, prefix=prefix, terms=terms, residual=residual)


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


def sizes(form: Form) -> Tensor:
    return form.rows(torch.arange(form.shape[0])).abs().mean(0)


@pytest.mark.parametrize("normalised", [False, True])
def test_products_with_sizes_are_those_of_matrices(normalised: bool) -> None:
    torch.manual_seed(0)
    forms = Band(kernel=torch.randn(3, 3, 3), grid=GRID), Dense(matrix=torch.randn(2, N, N))
    matrix = sum(0.5 * sizes(form) for form in forms)
    if normalised:
        matrix = matrix / matrix.sum(1, keepdim=True)
    weights = torch.rand(4, N)
    torch.testing.assert_close(mean_sizes(layer(*forms), weights, normalised=normalised), weights @ matrix)


def test_a_composed_field_is_the_product_of_the_layers_matrices() -> None:
    """Two stages: 8 x 12 tokens of 2 x 2 pixels, then 4 x 6; by N x N matrices of everything."""
    torch.manual_seed(0)
    fine, coarse = (Band(kernel=torch.randn(2, 3, 3), grid=grid) for grid in ((8, 12), (4, 6)))
    layers = [layer(fine, grid=(8, 12), residual=0.7), layer(coarse, grid=(4, 6), residual=0.2)]
    parts = []
    for one, form in zip(layers, (fine, coarse), strict=True):
        matrix = sizes(form) / sizes(form).sum(1, keepdim=True)
        assert one.residual is not None
        parts.append(one.residual * torch.eye(len(matrix)) + (1 - one.residual) * matrix)
    spread = torch.zeros(24, 8, 12)
    for token in range(24):
        row, column = divmod(token, 6)
        spread[token, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = 0.25
    whole = parts[1] @ spread.flatten(1) @ parts[0]
    pixels = whole.view(24, 8, 12).repeat_interleave(2, 1).repeat_interleave(2, 2) / 4
    torch.testing.assert_close(composed_fields(layers, torch.tensor([0, 17]), (16, 24)), pixels[[0, 17]])


def test_fields_of_a_network_sum_to_one_and_lie_where_they_should() -> None:
    torch.manual_seed(0)
    model = contagg.create("container_light_tiny", affinity="dwconv3", position="cpe").eval()
    image = torch.randn(1, 3, 64, 96)
    found = fields(model, image, see(model, image).layers, 4)
    assert len(found) >= 2
    for field in found:
        assert float(field.composed.sum()) == pytest.approx(1) and float(field.true.sum()) == pytest.approx(1)
        assert 0 < field.agreement <= 1
        for one in (field.composed, field.true):
            rows = torch.arange(len(one)) / len(one)
            middle = float((one.sum(1) * rows).sum())
            assert abs(middle - (field.row + 0.5) / field.grid[0]) < 0.35


def test_a_true_field_is_that_of_a_convolution_of_the_pixels() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.Conv2d(3, 4, 3, padding=1)])

        def forward(self, pixels: Tensor) -> Tensor:
            return self.blocks[0](pixels)

    kernel = torch.zeros(1, 3, 3)
    kernel[0, 1, 1] = 1
    one = RecordedLayer(
        name="blocks.0",
        label="a",
        grid=(8, 8),
        terms=(Term(name="static", weight=torch.ones(1), form=Band(kernel=kernel, grid=(8, 8))),),
    )
    (field,) = fields(Plain(), torch.randn(1, 3, 8, 8), [one], 1)
    inside = torch.zeros(8, 8)
    inside[field.row - 1 : field.row + 2, field.column - 1 : field.column + 2] = 1
    assert bool((field.true[inside == 0] == 0).all()) and bool((field.true[inside == 1] > 0).all())
    assert float(field.composed[field.row, field.column]) == pytest.approx(1)
    assert field.agreement == pytest.approx(float(field.true[field.row, field.column]))
    assert math.isclose(float(field.true.sum()), 1, rel_tol=1e-5)


def test_weights_that_are_not_finite_are_refused() -> None:
    """As those of a network whose training has diverged; the residual tells where a softmax shuts NaN out."""
    rows = torch.full((1, N, N), 1 / N)
    for broken in (layer(Dense(matrix=rows * math.nan)), layer(Dense(matrix=rows), residual=math.nan)):
        with pytest.raises(UserError, match=r"not finite .* diverged"):
            measure(broken)
