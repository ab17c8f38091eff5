"""Differences, gates and sinks of attention against formulas, timm's and torch's layers."""

import pytest
import torch
from test_attention_positions import GRID, drawn
from timm.layers.diff_attention import DiffAttention

from contagg.affinity import Site, build_affinity
from contagg.errors import UserError


def test_differential_attention_is_timms_before_its_norm() -> None:
    affinity, values, tokens = drawn("attention/16 diff")
    timms = DiffAttention(32, num_heads=2, qkv_bias=True).double().eval()
    weights, biases = ([getattr(layer, name) for layer in affinity.projections()] for name in ("weight", "bias"))
    timms.qkv.weight.data = torch.cat([*weights, torch.zeros(32, 32)])
    timms.qkv.bias.data = torch.cat([*biases, torch.zeros(32)])
    timms.qkv.register_forward_hook(lambda layer, inputs, output: torch.cat([output[..., :64], values], 2))
    for name, vector in zip(("q1", "k1", "q2", "k2"), affinity.weights.flatten(0, 1), strict=True):
        setattr(timms, f"lambda_{name}", torch.nn.Parameter(vector))
    timms.sub_norm, timms.proj = torch.nn.Identity(), torch.nn.Identity()
    timms.lambda_init = 0.8
    torch.testing.assert_close(5 * timms(tokens), affinity(values, tokens, GRID), rtol=1e-6, atol=1e-6)
    matrix = affinity.matrix(tokens, GRID)
    assert (matrix < 0).any()
    torch.testing.assert_close(matrix.sum(-1), (1 - affinity._lambda()).expand(2, 2, 35))


def test_gated_attention_gates_what_is_gathered() -> None:
    affinity, values, tokens = drawn("attention/16 gated")
    plain = affinity.attention(values, tokens, GRID)
    torch.testing.assert_close(affinity(values, tokens, GRID), plain / (1 + (-affinity.gate(tokens)).exp()))
    assert affinity.matrix(tokens, GRID).shape == (2, 32, 35, 35)


def test_sink_attention_is_torchs_with_one_more_key() -> None:
    affinity, values, tokens = drawn("attention/16 sink")
    torchs = torch.nn.MultiheadAttention(32, 2, add_bias_kv=True, batch_first=True).double().eval()
    weights, biases = ([getattr(layer, name) for layer in affinity.projections()] for name in ("weight", "bias"))
    torchs.in_proj_weight.data = torch.cat([*weights, torch.eye(32, dtype=torch.float64)])
    torchs.in_proj_bias.data = torch.cat([*biases, torch.zeros(32, dtype=torch.float64)])
    torchs.bias_k.data, torchs.bias_v.data = affinity.sink.view(1, 1, 32).data, torch.zeros(1, 1, 32).double()
    torchs.out_proj.weight.data = torch.eye(32, dtype=torch.float64)
    torchs.out_proj.bias.data.zero_()
    expected, shares = torchs(tokens, tokens, values, average_attn_weights=False)
    torch.testing.assert_close(affinity(values, tokens, GRID), expected)
    torch.testing.assert_close(affinity.matrix(tokens, GRID), shares[..., :35])


def test_a_sink_starts_as_softmax_plus_one() -> None:
    torch.manual_seed(0)
    affinity, tokens = build_affinity("attention sink", Site(channels=32, grid=GRID)), torch.randn(1, 35, 32)
    logits = (affinity.query(tokens) @ affinity.key(tokens).mT / 32**0.5).exp()
    torch.testing.assert_close(affinity.matrix(tokens, GRID)[:, 0], logits / (1 + logits.sum(-1, keepdim=True)))


def test_halves_of_heads_must_be_whole() -> None:
    with pytest.raises(UserError, match="attention diff: head width 3 must be even"):
        build_affinity("attention/3 diff", Site(channels=33, grid=GRID))
