"""Attention with positions against formulas and timm's layers."""

import pytest
import torch
from timm.layers import RotaryEmbeddingCat, apply_rot_embed_cat
from timm.models.swin_transformer import WindowAttention

from contagg.affinity import Affinity, Site, build_affinity
from contagg.errors import UserError

GRID = (5, 7)


def drawn(word: str, channels: int = 32, grid: tuple[int, int] = GRID) -> tuple[Affinity, torch.Tensor, torch.Tensor]:
    """An affinity in float64 with parameters away from where they start, values and tokens."""
    torch.manual_seed(0)
    affinity = build_affinity(word, Site(channels=channels, grid=grid)).double().eval()
    for parameter in affinity.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    values, tokens = torch.randn(2, 2, grid[0] * grid[1], channels, dtype=torch.float64)
    return affinity, values, tokens


@pytest.mark.parametrize("grid", [(5, 5), (3, 7)])
def test_relative_attention_is_swins_on_one_window(grid: tuple[int, int]) -> None:
    affinity, values, tokens = drawn("attention/16 relative", grid=grid)
    swin = WindowAttention(32, 2, window_size=grid).double()
    swin.relative_position_bias_table.data = affinity.table.flatten(1).T
    weights, biases = ([getattr(layer, name) for layer in affinity.projections()] for name in ("weight", "bias"))
    swin.qkv.weight.data = torch.cat([*weights, torch.zeros(32, 32)])
    swin.qkv.bias.data = torch.cat([*biases, torch.zeros(32)])
    swin.proj = torch.nn.Identity()
    # Its values come of the tokens: a hook puts ours in their place.
    swin.qkv.register_forward_hook(lambda layer, inputs, output: torch.cat([output[..., :64], values], 2))
    torch.testing.assert_close(affinity(values, tokens, grid), swin(tokens))


def test_larger_offsets_take_the_edge_of_the_table_until_it_is_resized() -> None:
    affinity, *_ = drawn("attention/16 relative", grid=(2, 2))
    tokens = torch.zeros(1, 9, 32, dtype=torch.float64)
    row = affinity.rows(tokens, (1, 9), torch.tensor([0])).log()[0, :, 0]
    torch.testing.assert_close(row[:, 1:], row[:, 1:2].expand(-1, 8))
    learnt, expected = affinity.table.clone(), affinity.table[:, 1, 0] - affinity.table[:, 1, 1]
    torch.testing.assert_close(row[:, 1] - row[:, 0], expected)
    affinity.resize((2, 2))
    assert torch.equal(affinity.table, learnt)
    affinity.resize((4, 6))
    assert affinity.table.shape == (2, 7, 11)
    torch.testing.assert_close(affinity.table[:, 3, 5], learnt[:, 1, 1], rtol=0.1, atol=0.1)  # no offset stays none


def test_rotary_attention_is_timms() -> None:
    affinity, _, tokens = drawn("attention/16 rope")
    embedding = RotaryEmbeddingCat(16, in_pixels=False, temperature=100.0, feat_shape=GRID).get_embed().double()
    query, key = (
        apply_rot_embed_cat(layer(tokens).unflatten(2, (2, 16)).transpose(1, 2), embedding)
        for layer in affinity.projections()
    )
    expected = (query @ key.mT / 4).softmax(-1)
    torch.testing.assert_close(affinity.matrix(tokens, GRID), expected, rtol=1e-6, atol=1e-6)


def test_rotations_know_offsets_alone() -> None:
    affinity, *_ = drawn("attention/16 rope")
    matrix = affinity.matrix(torch.ones(1, 35, 32, dtype=torch.float64), GRID).log().view(2, *GRID, *GRID)
    moved = matrix[:, 1:, 2:, 1:, 2:] - matrix[:, 1:, 2:, 1:2, 2:3]
    torch.testing.assert_close(moved, (matrix - matrix[..., :1, :1])[:, :-1, :-2, :-1, :-2], rtol=1e-5, atol=1e-5)


def test_decay_is_the_formula_of_rmt() -> None:
    affinity, _, tokens = drawn("decay/16")
    query, key = (layer(tokens).unflatten(2, (2, 16)).transpose(1, 2) for layer in affinity.projections())
    row, column = torch.arange(35) // 7, torch.arange(35) % 7
    distance = (row[:, None] - row).abs() + (column[:, None] - column).abs()
    gamma = torch.tensor([1 - 2**-2, 1 - 2**-4], dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(affinity.matrix(tokens, GRID), (query @ key.mT / 4).softmax(-1) * gamma**distance)


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(UserError, match="head width 6 must be a multiple of 4"):
        build_affinity("attention/6 rope", Site(channels=36, grid=GRID))
    tokens = torch.zeros(1, 36, 32)
    with pytest.raises(UserError, match="decay: 36 tokens do not fill a grid of 5 x 7"):
        build_affinity("decay", Site(channels=32, grid=GRID))(tokens, tokens, GRID)
