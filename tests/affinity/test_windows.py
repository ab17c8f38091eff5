"""Windows against timm's Swin, neighbourhoods against their definition, axial attention against two products."""

import pytest
import torch
from test_attention_positions import GRID, drawn
from timm.models.swin_transformer import SwinTransformerBlock

from contagg.affinity import Site, build_affinity
from contagg.errors import UserError

Size = tuple[int, int]


class Zero(torch.nn.Module):
    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(tokens)


@pytest.mark.parametrize("shift", [0, 3])
def test_windows_are_swins(shift: int) -> None:
    grid = (14, 21)
    affinity, _, tokens = drawn("window7/16 shifted" if shift else "window7/16", grid=grid)
    block = SwinTransformerBlock(32, grid, num_heads=2, window_size=7, shift_size=shift).double().eval()
    block.norm1, block.norm2, block.mlp, swin = torch.nn.Identity(), torch.nn.Identity(), Zero(), block.attn
    swin.relative_position_bias_table.data = affinity.table.flatten(1).T
    weights, biases = ([getattr(layer, name) for layer in affinity.projections()] for name in ("weight", "bias"))
    # Its values are a projection of the tokens: here the tokens themselves.
    swin.qkv.weight.data = torch.cat([*weights, torch.eye(32)])
    swin.qkv.bias.data = torch.cat([*biases, torch.zeros(32)])
    swin.proj = torch.nn.Identity()
    expected = block(tokens.unflatten(1, grid)).flatten(1, 2) - tokens
    torch.testing.assert_close(affinity(tokens, tokens, grid), expected)


@pytest.mark.parametrize("grid", [(5, 7), (9, 16), (3, 2)])
def test_windows_at_the_edge_hold_what_is_there(grid: Size) -> None:
    affinity, _, tokens = drawn("window4/32 shifted", grid=grid)
    matrix = affinity.matrix(tokens, grid)[0, 0]
    for i in range(len(matrix)):
        for j in range(len(matrix)):
            together = all(
                (divmod(i, grid[1])[axis] + 2) // 4 == (divmod(j, grid[1])[axis] + 2) // 4 for axis in (0, 1)
            )
            assert (matrix[i, j] > 0) == together


@pytest.mark.parametrize("grid", [(5, 7), (8, 11), (3, 13)])
def test_neighbourhoods_stay_whole_at_the_edge(grid: Size) -> None:
    affinity, values, tokens = drawn("neighborhood5/32", grid=grid)
    query, key = affinity.query(tokens) / 32**0.5, affinity.key(tokens).unflatten(1, grid)
    kept, expected = values.unflatten(1, grid), []
    for index in range(grid[0] * grid[1]):
        begin = [max(0, min(at - 2, length - 5)) for at, length in zip(divmod(index, grid[1]), grid, strict=True)]
        near = (slice(None), slice(begin[0], begin[0] + 5), slice(begin[1], begin[1] + 5))
        shares = torch.einsum("bc,bnc->bn", query[:, index], key[near].flatten(1, 2)).softmax(1)
        assert shares.shape[1] == min(5, grid[0]) * min(5, grid[1])
        expected.append(torch.einsum("bn,bnc->bc", shares, kept[near].flatten(1, 2)))
    torch.testing.assert_close(affinity(values, tokens, grid), torch.stack(expected, 1))


def test_axial_attention_is_rows_and_then_columns() -> None:
    affinity, values, tokens = drawn("axial/32")
    logits = affinity.query(tokens) @ affinity.key(tokens).mT / 32**0.5
    row, column = torch.arange(35) // 7, torch.arange(35) % 7
    of_rows, of_columns = (logits.masked_fill(line[:, None] != line, -torch.inf).softmax(-1) for line in (row, column))
    torch.testing.assert_close(affinity.matrix(tokens, GRID)[:, 0], of_columns @ of_rows)
    torch.testing.assert_close(affinity(values, tokens, GRID), of_columns @ (of_rows @ values))


@pytest.mark.parametrize("word", ["window7", "window7 shifted", "neighborhood7", "axial"])
def test_class_tokens_have_no_place(word: str) -> None:
    tokens = torch.zeros(1, 36, 32)
    with pytest.raises(UserError, match="36 tokens do not fill a grid of 5 x 7"):
        build_affinity(word, Site(channels=32, grid=GRID))(tokens, tokens, GRID)


def test_a_neighbourhood_has_a_centre() -> None:
    with pytest.raises(UserError, match="neighborhood4: the size must be odd"):
        build_affinity("neighborhood4", Site(channels=32, grid=GRID))
