"""The paper's unification: for every affinity, the fast path equals the explicit matrix times the values."""

import pytest
import torch

from contagg.affinity import Affinity, Mixture, SelfAttention, Site, TokenMLP, build_affinity

CHANNELS = 96
GRIDS = [(5, 7), (7, 3), (1, 11), (1, 1)]
SINGLE = [
    "attention",
    "attention/24",
    "dwconv1",
    "dwconv3",
    "dwconv5",
    "dwconv5/32",
    "dwconv7/48",
    "token mlp",
    "token mlp/32",
    "token mlp rank 3",
]
MIXED = [
    "attention + dwconv5",
    "attention + token mlp",
    "attention/48 + dwconv3/32",
    "token mlp/32 rank 2 + dwconv3",
    "dwconv3 + dwconv5",
]
GATES = ["free", "free/head", "sigmoid", "sigmoid/head", "sum"]
CASES = [(word, "free") for word in SINGLE] + [(word, gate) for word in MIXED for gate in GATES]


def drawn(word: str, grid: tuple[int, int], gate: str, seed: int) -> tuple[Affinity, torch.Tensor, torch.Tensor]:
    """An affinity with random parameters, tokens and values, in float64."""
    torch.manual_seed(seed)
    affinity = build_affinity(word, Site(channels=CHANNELS, grid=grid), gate).double()
    for parameter in affinity.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    tokens, values = torch.randn(2, 2, grid[0] * grid[1], CHANNELS, dtype=torch.float64)
    return affinity, tokens.requires_grad_(), values.requires_grad_()


def by_matrix(affinity: Affinity, values: torch.Tensor, tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """The slow oracle: one product a head with the whole of A, written without the library's helpers."""
    matrix = affinity.matrix(tokens, grid).expand(len(values), -1, -1, -1)
    width = values.shape[2] // affinity.heads
    heads = [matrix[:, m] @ values[:, :, m * width : (m + 1) * width] for m in range(affinity.heads)]
    return torch.cat(heads, 2) + (0 if affinity.bias is None else affinity.bias)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize(("word", "gate"), CASES)
def test_aggregate_is_matrix_times_values(word: str, gate: str, grid: tuple[int, int], seed: int) -> None:
    affinity, tokens, values = drawn(word, grid, gate, seed)
    fast = affinity(values, tokens, grid)
    slow = by_matrix(affinity, values, tokens, grid)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)

    weight = torch.randn_like(fast)
    inputs = [values, *affinity.parameters(), *([tokens] if affinity.dynamic else [])]
    for got, expected in zip(
        torch.autograd.grad((fast * weight).sum(), inputs),
        torch.autograd.grad((slow * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("word", [*SINGLE, *MIXED])
def test_rows_are_the_matrix_rows(word: str) -> None:
    grid = (5, 7)
    affinity, tokens, _ = drawn(word, grid, "free", seed=3)
    positions = torch.tensor([34, 0, 17])
    rows = affinity.rows(tokens, grid, positions)
    torch.testing.assert_close(rows, affinity.matrix(tokens, grid)[:, :, positions], rtol=1e-12, atol=1e-12)
    assert rows.shape == (2 if affinity.dynamic else 1, affinity.heads, 3, 35)


def test_class_tokens_with_attention_and_mlp() -> None:
    """DeiT with PAM: a prefix token beside the grid has a row and a column of its own."""
    torch.manual_seed(0)
    grid, prefix = (3, 5), 1
    affinity = Mixture(SelfAttention(64), TokenMLP(64, grid, head_width=32, prefix=prefix), gate="sum").double()
    tokens, values = torch.randn(2, 2, 16, 64, dtype=torch.float64)
    torch.testing.assert_close(affinity(values, tokens, grid), by_matrix(affinity, values, tokens, grid))
