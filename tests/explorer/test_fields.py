"""What a place depends on through the network, where the answer is known."""

import math

import pytest
import torch
from made_layers import layer, sizes
from PIL import Image
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


class Late(nn.Module):
    """Attention over a grid of 4 x 4, with `tokens` of no place in the middle; `wrapped` as a library's block."""

    def __init__(self, tokens: int, *, wrapped: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.late = nn.Conv2d(3, 8, 2, stride=2), nn.Parameter(torch.randn(1, tokens, 8))
        self.blocks = nn.ModuleList([Block(wrapped)])

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.stem(image).flatten(2).mT
        tokens = torch.cat([tokens[:, :5], self.late, tokens[:, 5:]], 1)
        given = self.blocks[0](tokens)
        return given[0] if isinstance(given, tuple) else given


class Block(nn.Module):
    def __init__(self, wrapped: bool) -> None:
        super().__init__()
        self.attention, self.wrapped = nn.MultiheadAttention(8, 2, batch_first=True), wrapped

    def forward(self, tokens: Tensor) -> Tensor | tuple[Tensor, None]:
        given = tokens + 0.01 * self.attention(tokens, tokens, tokens)[0]
        return (given, None) if self.wrapped else given


@pytest.mark.parametrize(("tokens", "wrapped"), [(0, False), (3, False), (2, True)])
def test_a_true_field_lies_at_its_place_wherever_the_model_keeps_other_tokens(tokens: int, wrapped: bool) -> None:
    model, image = Late(tokens, wrapped=wrapped).eval(), torch.randn(1, 3, 8, 8)
    layers = see(model, image).layers
    assert (layers[-1].grid, layers[-1].prefix) == ((4, 4), tokens)
    found = fields(model, image, layers, 16)
    assert len(found) == 16
    for field in found:  # nearly all is the residual's
        own = field.true[2 * field.row : 2 * field.row + 2, 2 * field.column : 2 * field.column + 2]
        assert float(own.sum()) > 0.8


def test_a_page_without_fields_says_why() -> None:
    class Apart(Late):
        def forward(self, image: Tensor) -> Tensor:
            return self.blocks[0].attention(*3 * [self.stem(image).flatten(2).mT])[0]

    (numbers,) = contagg.explore(Apart(0), Image.new("RGB", (8, 8)), size=32, fields=1).numbers()
    assert not numbers["fields"] and numbers["unshown"][0]["name"] == "through the network, to the pixels"
    (numbers,) = contagg.explore(Apart(0), Image.new("RGB", (8, 8)), size=32, fields=0).numbers()
    assert not numbers["unshown"]
