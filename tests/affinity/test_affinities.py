"""Each affinity on its own: cases with answers known on paper, grids it serves or refuses, resizing."""

import pytest
import torch

from contagg.affinity import DepthwiseConv, Mixture, SelfAttention, TokenMLP
from contagg.errors import UserError

POSITIONS = torch.arange(15)


def test_attention_rows_sum_to_one_and_uniform_keys_average() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(64)
    tokens, values = torch.randn(2, 2, 15, 64)
    torch.testing.assert_close(attention.rows(tokens, (3, 5), POSITIONS).sum(-1), torch.ones(2, 2, 15))
    torch.nn.init.zeros_(attention.key.weight)
    mean = values.mean(1, keepdim=True).expand_as(values)
    torch.testing.assert_close(attention(values, tokens, (3, 5)), mean)


def test_identity_kernel_is_the_identity_and_a_shifted_one_shifts() -> None:
    convolution = DepthwiseConv(4, kernel_size=3, bias=False)
    values = torch.randn(2, 15, 4)
    with torch.no_grad():
        convolution.weight.zero_()[:, :, 1, 1] = 1
    torch.testing.assert_close(convolution(values, values, (3, 5)), values)
    torch.testing.assert_close(convolution.matrix(values, (3, 5))[0], torch.eye(15).expand(4, 15, 15))
    with torch.no_grad():
        convolution.weight.zero_()[:, :, 1, 2] = 1  # each position gathers from its right neighbour
    expected = torch.zeros(2, 3, 5, 4)
    expected[:, :, :-1] = values.unflatten(1, (3, 5))[:, :, 1:]
    torch.testing.assert_close(convolution(values, values, (3, 5)).unflatten(1, (3, 5)), expected)


def test_convolution_outside_its_window_is_exactly_zero() -> None:
    row = DepthwiseConv(2, kernel_size=3).rows(torch.randn(1, 77, 2), (7, 11), torch.tensor([3 * 11 + 5]))
    row = row.unflatten(3, (7, 11))
    assert row[..., 2:5, 4:7].abs().min() > 0
    row[..., 2:5, 4:7] = 0
    assert not row.any()


@pytest.mark.parametrize("rank", [None, 4])
def test_mlp_serves_its_grid_only_until_resized(rank: int | None) -> None:
    torch.manual_seed(0)
    mlp = TokenMLP(6, (3, 5), rank=rank)
    larger = torch.randn(2, 77, 6)
    with pytest.raises(UserError, match=r"grid of 3 x 5.*7 x 11.*set_input_size"):
        mlp(larger, larger, (7, 11))
    mlp.resize((7, 11))
    assert mlp(larger, larger, (7, 11)).shape == larger.shape
    assert mlp.matrix(larger, (7, 11)).shape == (1, 1, 77, 77)


def test_mlp_resized_averages_as_before_and_keeps_prefix_tokens() -> None:
    """A constant image stays what it was: rows keep their sums over the sources."""
    mlp = TokenMLP(4, (4, 6), prefix=1)
    with torch.no_grad():
        mlp.factors[0].copy_(torch.full((1, 25, 25), 1 / 24))
        mlp.factors[0][:, :, 0] = 3.0
    mlp.resize((8, 9))
    matrix = mlp.rows(torch.randn(1, 73, 4), (8, 9), torch.arange(73))[0, 0]
    torch.testing.assert_close(matrix[:, 0], torch.full((73,), 3.0))
    torch.testing.assert_close(matrix[:, 1:].sum(1), torch.ones(73))


def test_mlp_resize_to_the_same_grid_changes_nothing() -> None:
    mlp = TokenMLP(64, (4, 6), head_width=32, rank=3)
    before = [factor.clone() for factor in mlp.factors]
    mlp.resize((4, 6))
    for factor, old in zip(mlp.factors, before, strict=True):
        torch.testing.assert_close(factor, old)


def test_low_rank_matrix_has_that_rank() -> None:
    matrix = TokenMLP(4, (5, 7), rank=3).double().matrix(torch.randn(1, 35, 4).double(), (5, 7))
    assert torch.linalg.matrix_rank(matrix[0, 0]) == 3


def test_gates_start_in_the_middle() -> None:
    for gate in ("free", "sigmoid", "free/head", "sigmoid/head"):
        mixture = Mixture(SelfAttention(96), DepthwiseConv(96), gate=gate)
        for weight in mixture.gate():
            torch.testing.assert_close(weight, torch.full((3 if "head" in gate else 1,), 0.5))


def test_convolution_refuses_class_tokens() -> None:
    with pytest.raises(UserError, match="16 tokens do not fill a grid of 3 x 5"):
        DepthwiseConv(4)(torch.randn(1, 16, 4), torch.randn(1, 16, 4), (3, 5))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SelfAttention(48, head_width=32), "head width 32 does not divide 48"),
        (lambda: DepthwiseConv(48, head_width=32), "head width 32 does not divide 48"),
        (lambda: TokenMLP(48, (2, 2), head_width=32), "head width 32 does not divide 48"),
        (lambda: DepthwiseConv(48, kernel_size=4), "kernel size must be odd"),
        (lambda: Mixture(SelfAttention(32), DepthwiseConv(32), gate="sigmod"), "Did you mean 'sigmoid'"),
    ],
)
def test_sizes_that_cannot_be(build: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build()


def test_attention_drops_entries_in_training_alone() -> None:
    """What is left grows by 1 / (1 - rate), so that the mean over many draws is the answer of evaluation."""
    torch.manual_seed(0)
    grid, tokens = (3, 5), torch.randn(1, 15, 64)
    dropping = SelfAttention(64, attn_drop=0.5)
    answer = dropping.eval()(tokens, tokens, grid)
    assert torch.equal(dropping(tokens, tokens, grid), answer)
    torch.testing.assert_close(answer[0, :, :32], dropping.matrix(tokens, grid)[0, 0] @ tokens[0, :, :32])
    dropping.train()
    one, many = dropping(tokens, tokens, grid), dropping(*[tokens.expand(4000, -1, -1)] * 2, grid)
    assert not torch.allclose(one, answer, atol=1e-3)
    torch.testing.assert_close(many.mean(0), answer[0], rtol=0, atol=0.05)


def test_a_kernel_starts_within_the_bound_of_torchs_and_a_matrix_with_small_entries() -> None:
    torch.manual_seed(0)
    kernels = DepthwiseConv(512, kernel_size=5)
    for parameter in (kernels.weight, kernels.bias):
        assert 0.97 / 5 < parameter.abs().max() <= 1 / 5
    for rank in (None, 7):
        matrix = TokenMLP(4, (11, 13), rank=rank).matrix(torch.zeros(1, 143, 4), (11, 13))
        assert matrix.std().item() == pytest.approx(0.02, rel=0.1)


def test_a_mixture_reaches_as_far_as_its_farther_part() -> None:
    near, far = DepthwiseConv(32, kernel_size=3), DepthwiseConv(32, kernel_size=7)
    assert Mixture(near, far).local == Mixture(far, near).local == 3
    assert Mixture(far, SelfAttention(32)).local is None


@pytest.mark.parametrize("inner", [SelfAttention, DepthwiseConv])
def test_a_gate_around_a_mixture_is_folded_into_it(inner: type) -> None:
    torch.manual_seed(0)
    mixture, grid = Mixture(inner(64), DepthwiseConv(64, kernel_size=5), gate="free/head").eval(), (3, 5)
    gate, tokens = torch.tensor([0.3, -2.0]), torch.randn(2, 15, 64)
    expected = mixture(tokens, tokens, grid) * gate.repeat_interleave(32)
    torch.testing.assert_close(mixture.fold(gate)(tokens, tokens, grid), expected)
