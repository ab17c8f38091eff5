"""Statistics of affinities whose answers are known on paper."""

import math

import pytest
import torch
from torch import nn

import contagg
from contagg.affinity import Affinity, DepthwiseConv, Grid, SelfAttention, TokenMLP
from contagg.errors import UserError
from contagg.inspect.seeing import see
from contagg.inspect.statistics import Statistics, form_statistics, gates, sample_positions, statistics

GRID = (3, 5)
TOKENS = torch.zeros(1, 15, 8)


def affinity_statistics(
    affinity: Affinity, tokens: torch.Tensor, grid: Grid, places: list[tuple[int, int]] | None = None
) -> Statistics:
    form = affinity.form(tokens, grid)
    assert form is not None
    return form_statistics(form, grid, affinity.prefix, places)


def test_identity_reaches_nowhere() -> None:
    identity = DepthwiseConv(8, 3)
    nn.init.zeros_(identity.weight)
    identity.weight.data[:, :, 1, 1] = -2.0
    found = affinity_statistics(identity, TOKENS, GRID)
    assert found.distance.tolist() == found.entropy.tolist() == [0.0] * 8
    assert found.within3.tolist() == found.within5.tolist() == [1.0] * 8


def test_uniform_attention_is_spread_over_the_grid() -> None:
    attention = SelfAttention(8, head_width=4)
    for parameter in attention.parameters():
        nn.init.zeros_(parameter)
    found = affinity_statistics(attention, TOKENS, GRID)
    places = [(row, column) for row in range(3) for column in range(5)]
    distance = sum(math.dist(a, b) for a in places for b in places) / 15**2
    within3 = (7 * 13 / 15) / 15  # 2 + 3 + 2 rows and 2 + 3 + 3 + 3 + 2 columns in reach, over all positions
    within5 = (9 * 19 / 15) / 15
    torch.testing.assert_close(found.distance, torch.tensor([distance] * 2))
    torch.testing.assert_close(found.entropy, torch.tensor([math.log(15)] * 2))
    torch.testing.assert_close(found.within3, torch.tensor([within3] * 2))
    torch.testing.assert_close(found.within5, torch.tensor([within5] * 2))


def test_signs_heads_and_places() -> None:
    """Head 1 takes 3 from two columns to the right and -1 from the row below; head 2 only itself."""
    affinity = DepthwiseConv(2, 5)
    nn.init.zeros_(affinity.weight)
    affinity.weight.data[0, 0, 2, 4] = 3.0
    affinity.weight.data[0, 0, 3, 2] = -1.0
    affinity.weight.data[1, 0, 2, 2] = 1.0
    found = affinity_statistics(affinity, torch.zeros(1, 35, 2), (5, 7), places=[(1, 1), (3, 4)])
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    torch.testing.assert_close(found.distance, torch.tensor([(3 * 2 + 1) / 4, 0.0]))
    torch.testing.assert_close(found.entropy, torch.tensor([entropy, 0.0]))
    torch.testing.assert_close(found.within3, torch.tensor([0.25, 1.0]))
    torch.testing.assert_close(found.within5, torch.tensor([1.0, 1.0]))


def test_class_tokens_are_left_out() -> None:
    affinity = TokenMLP(4, (2, 3), prefix=1)
    with torch.no_grad():
        # Each token gathers itself, and the class token all of them.
        affinity.factors[0].copy_(torch.eye(7) + 9 * torch.eye(7)[:, :1])
    found = affinity_statistics(affinity, torch.zeros(1, 7, 4), (2, 3))
    assert (found.distance.item(), found.within3.item()) == (0, 1)


def test_an_empty_row_counts_as_nothing() -> None:
    nothing = DepthwiseConv(2, 3)
    nn.init.zeros_(nothing.weight)
    found = affinity_statistics(nothing, torch.zeros(1, 15, 2), GRID)
    assert found.distance.tolist() == found.entropy.tolist() == found.within3.tolist() == [0, 0]


def test_many_rows_in_pieces_are_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    attention, tokens = SelfAttention(8, head_width=4).double(), torch.randn(1, 15, 8, dtype=torch.float64)
    whole = affinity_statistics(attention, tokens, GRID)
    monkeypatch.setattr("contagg.inspect.statistics._ELEMENTS", 2 * 15 * 4)
    pieces = affinity_statistics(attention, tokens, GRID)
    torch.testing.assert_close(vars(pieces), vars(whole))


def test_positions_are_spread_over_the_grid() -> None:
    assert sample_positions((2, 3), 64) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    places = sample_positions((40, 42), 64)
    assert 50 <= len(places) <= 80 and len(set(places)) == len(places)
    for axis, length in ((0, 40), (1, 42)):
        values = [place[axis] for place in places]
        assert 0 <= min(values) == pytest.approx(length - 1 - max(values), abs=1)


def test_a_layer_s_terms_and_gates() -> None:
    torch.manual_seed(0)
    words = ("dwconv3", "attention", "attention + token mlp", "attention + dwconv5")
    sizes = {"embed_dims": (32, 64, 96, 128), "depths": (1, 1, 1, 1), "num_classes": 2}
    model = contagg.create("container_tiny", affinity=words, gate="free/head", img_size=64, **sizes).eval()
    model.get_submodule("stages.3.blocks.0.aggregation.affinity.gate").alpha.data = torch.tensor([0.1, 0.2, 0.3, 0.4])
    found = gates(model)
    assert [(gate.stage, gate.alpha, gate.beta) for gate in found[:3]] == [
        (1, [0], [1]), (2, [1], [0]), (3, [0.5] * 3, [0.5] * 3)
    ]  # fmt: skip
    assert found[3].alpha == pytest.approx([0.1, 0.2, 0.3, 0.4]) and found[3].beta == [0.5] * 4
    per_layer = [statistics(layer) for layer in see(model, torch.randn(1, 3, 64, 64)).layers]
    assert [list(layer) for layer in per_layer] == [
        ["static", "mixed"], ["dynamic", "mixed"], ["dynamic", "static", "mixed"], ["dynamic", "static", "mixed"]
    ]  # fmt: skip
    assert [len(part.entropy) for part in per_layer[3].values()] == [4, 128, 128]
    for gate in (per_layer[0], per_layer[1]):
        torch.testing.assert_close(vars(gate["mixed"]), vars(next(iter(gate.values()))))


def test_no_affinity_no_statistics() -> None:
    with pytest.raises(UserError, match="Linear has no affinity"):
        gates(nn.Linear(2, 2))
