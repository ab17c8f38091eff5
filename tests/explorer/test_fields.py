"""What a place depends on through the network, where the answer is known."""

import math

import pytest
import torch
from made_layers import layer, sizes
from torch import Tensor, nn

import contagg
from contagg.affinity.bands import Band
from contagg.explorer.fields import composed_fields, fields
from contagg.inspect.forms import RecordedLayer, Term
from contagg.inspect.seeing import see


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
