"""Pooled, linear and agent attention against timm's PVT v2, torch's pooling and the formulas."""

import pytest
import torch
import torch.nn.functional as F
from test_attention_positions import GRID, drawn
from timm.models.pvt_v2 import Attention as PyramidAttention

from contagg.affinity import Site, build_affinity
from contagg.errors import UserError


def test_pooled_attention_is_that_of_pvt_v2() -> None:
    """Its linear form pools to 7 x 7, which is by 2 on a grid of 14 x 14; the layers after pooling are left out."""
    affinity, values, tokens = drawn("pooled2/16", grid=(14, 14))
    pvt = PyramidAttention(32, 2, linear_attn=True).double().eval()
    pvt.q, pvt.sr, pvt.norm, pvt.act, pvt.proj = affinity.query, *(torch.nn.Identity() for _ in range(4))
    pvt.kv = torch.nn.Linear(32, 64).double()
    pvt.kv.weight.data[:32], pvt.kv.bias.data[:32] = affinity.key.weight, affinity.key.bias
    pooled = F.adaptive_avg_pool2d(values.mT.unflatten(2, (14, 14)), 7).flatten(2).mT
    pvt.kv.register_forward_hook(lambda layer, inputs, output: torch.cat([output[..., :32], pooled], 2))
    torch.testing.assert_close(affinity(values, tokens, (14, 14)), pvt(tokens, [14, 14]))


def test_ragged_squares_are_means_of_what_they_hold() -> None:
    affinity, _, tokens = drawn("pooled4/16")
    pooled = F.avg_pool2d(torch.eye(35).double().view(35, 1, *GRID), 4, 4, ceil_mode=True).flatten(1).T  # (N', N)
    query, key = (
        layer.unflatten(2, (2, 16)).transpose(1, 2) for layer in (affinity.query(tokens), affinity.key(pooled @ tokens))
    )
    matrix = affinity.matrix(tokens, GRID)
    torch.testing.assert_close(matrix, (query @ key.mT / 4).softmax(-1) @ pooled)
    assert (torch.linalg.matrix_rank(matrix) <= 4).all()


def test_linear_attention_is_its_recurrence() -> None:
    affinity, values, tokens = drawn("linear")
    query, key = (F.elu(layer(tokens)) + 1 for layer in affinity.projections())
    state, total = torch.zeros(2, 32, 32).double(), torch.zeros(2, 32).double()
    for index in range(35):
        state = state + key[:, index, :, None] * values[:, index, None]
        total = total + key[:, index]
    expected = torch.stack(
        [(query[:, i, None] @ state)[:, 0] / (query[:, i] * total).sum(1)[:, None] for i in range(35)], 1
    )
    torch.testing.assert_close(affinity(values, tokens, GRID), expected)


@pytest.mark.parametrize("grid", [(5, 7), (14, 9), (2, 3)])
def test_agents_are_pooled_adaptively(grid: tuple[int, int]) -> None:
    affinity, values, tokens = drawn("agent49/32", grid=grid)
    query, key = (layer(tokens) for layer in affinity.projections())
    agents = F.adaptive_avg_pool2d(query.mT.unflatten(2, grid), 7).flatten(2).mT
    gathered = F.scaled_dot_product_attention(agents, key, values)
    torch.testing.assert_close(affinity(values, tokens, grid), F.scaled_dot_product_attention(query, agents, gathered))


def test_agents_are_a_square_number() -> None:
    with pytest.raises(UserError, match="agent48: the number of agents must be a square"):
        build_affinity("agent48", Site(channels=32, grid=GRID))
