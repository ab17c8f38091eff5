import pytest
import torch
from torch import nn

from contagg.affinity import Site
from contagg.affinity.base import as_map, as_tokens
from contagg.nn.aggregation import build_aggregation
from contagg.nn.block import Block, ConditionalPosition, NormPlacement


def test_block_is_two_residuals_after_a_position_encoding() -> None:
    torch.manual_seed(0)
    grid = (3, 5)
    block = Block(8, build_aggregation("dwconv3", Site(channels=8, grid=grid)), 4, 0.0, conditional_position=True)
    block = block.double().eval()
    x = torch.randn(2, 15, 8, dtype=torch.float64)
    maps = x.transpose(1, 2).reshape(2, 8, 3, 5)
    encoded = x + nn.functional.conv2d(maps, block.position.weight, block.position.bias, padding=1, groups=8).flatten(
        2
    ).transpose(1, 2)
    aggregated = encoded + block.aggregation(as_tokens(block.norm1(as_map(encoded, grid))), grid)
    expected = aggregated + block.mlp(as_tokens(block.norm2(as_map(aggregated, grid))))
    torch.testing.assert_close(block(x, grid), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("placement", ["res_post", "single"])
def test_norms_stand_where_they_are_placed(placement: NormPlacement) -> None:
    torch.manual_seed(0)
    grid = (3, 5)
    aggregation = build_aggregation("dwconv3", Site(channels=8, grid=grid))
    block = Block(8, aggregation, 4, 0.0, False, layer_scale=0.5, norm_placement=placement).double().train()
    x = torch.randn(2, 15, 8, dtype=torch.float64)

    def normalized(tokens: torch.Tensor) -> torch.Tensor:
        return (tokens - tokens.mean((0, 1))) / (tokens.var((0, 1), correction=0) + 1e-5).sqrt()

    if placement == "res_post":
        gathered = x + 0.5 * normalized(aggregation(x, grid))
        expected = gathered + 0.5 * normalized(block.mlp(gathered))
    else:
        gathered = x + 0.5 * aggregation(normalized(x), grid)
        expected = gathered + 0.5 * block.mlp(gathered)
    torch.testing.assert_close(block(x, grid), expected, rtol=1e-12, atol=1e-12)


def test_batch_norm_over_tokens_normalises_each_channel_over_all_positions() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(7).train()
    tokens = 3 + 2 * torch.randn(5, 11 * 13, 7)
    out = as_tokens(norm(as_map(tokens, (11, 13))))
    torch.testing.assert_close(out.mean((0, 1)), torch.zeros(7), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var((0, 1), correction=0), torch.ones(7), atol=1e-4, rtol=0)
    torch.testing.assert_close(norm.running_mean, 0.1 * tokens.mean((0, 1)))


def test_position_tells_a_border_from_the_middle() -> None:
    position = ConditionalPosition(4)
    out = position(torch.ones(1, 35, 4), (5, 7)).unflatten(1, (5, 7))
    torch.testing.assert_close(out[0, 1, 1], out[0, 3, 5])
    assert (out[0, 0, 0] - out[0, 2, 3]).abs().min() > 0


def test_stochastic_depth_drops_whole_residuals() -> None:
    torch.manual_seed(0)
    block = Block(
        8, build_aggregation("dwconv3", Site(channels=8, grid=(2, 2))), 4, 1 - 1e-6, conditional_position=False
    )
    x = torch.randn(3, 4, 8)
    assert torch.equal(block.train()(x, (2, 2)), x)
    assert not torch.equal(block.eval()(x, (2, 2)), x)


def test_outputs_of_projections_drop_in_training() -> None:
    torch.manual_seed(0)
    aggregation = build_aggregation("dwconv3", Site(channels=8, grid=(2, 2)))
    block = Block(8, aggregation, 4, 0.0, conditional_position=False, proj_drop=1.0)
    x = torch.randn(3, 4, 8)
    assert torch.equal(block.train()(x, (2, 2)), x)
    assert not torch.equal(block.eval()(x, (2, 2)), x)
