import pytest
import torch
import torch.nn.functional as F

from contagg.affinity import Site
from contagg.nn.aggregation import build_aggregation


@pytest.mark.parametrize(("word", "groups"), [("full-conv3", 1), ("group-conv5/8", 8)])
def test_channel_mixing_convolution_is_torchs(word: str, groups: int) -> None:
    """The two rows of Table 2 that are no affinity: values, a convolution over them, output."""
    torch.manual_seed(0)
    grid = (5, 7)
    aggregation = build_aggregation(word, Site(channels=16, grid=grid)).double()
    tokens = torch.randn(2, 35, 16, dtype=torch.float64)
    values = F.linear(tokens, aggregation.value.weight, aggregation.value.bias)
    convolution = aggregation.affinity.convolution
    maps = values.reshape(2, 5, 7, 16).permute(0, 3, 1, 2).contiguous()
    mixed = F.conv2d(maps, convolution.weight, convolution.bias, padding="same", groups=groups)
    expected = F.linear(
        mixed.permute(0, 2, 3, 1).reshape(2, 35, 16), aggregation.output.weight, aggregation.output.bias
    )
    torch.testing.assert_close(aggregation(tokens, grid), expected, rtol=1e-12, atol=1e-12)
    assert not hasattr(aggregation.affinity, "matrix")


@pytest.mark.parametrize("word", ["attention", "dwconv3", "token mlp", "attention + dwconv5"])
def test_aggregation_moves_information_across_positions_only_within_a_head(word: str) -> None:
    """Eq. 3: before the output projection, head m's channels depend on head m's values alone."""
    torch.manual_seed(1)
    site = Site(channels=64, grid=(3, 5))
    affinity = build_aggregation(word, site).affinity
    tokens, values = torch.randn(1, 15, 64), torch.randn(1, 15, 64, requires_grad=True)
    result = affinity(values, tokens, (3, 5))
    (gradient,) = torch.autograd.grad(result[..., :32].square().sum(), values)
    if word != "token mlp":  # one head over all channels still maps each channel on its own
        assert not gradient[..., 32:].any()
    assert gradient[..., :32].any()


def test_an_affinity_finds_zeros_in_values_and_tokens_where_a_mask_holds_no_image() -> None:
    """Kinds that read neighbours rely on it, of the values or, where they are dynamic, of the tokens."""
    torch.manual_seed(0)
    aggregation = build_aggregation("attention", Site(channels=32, grid=(3, 5)))
    mask = torch.zeros(2, 3, 5, dtype=torch.bool)
    mask[0, :2, :3] = mask[1] = True
    given = []
    aggregation.affinity.register_forward_pre_hook(lambda module, inputs: given.extend(inputs))
    tokens = torch.randn(2, 15, 32)
    aggregation(tokens, (3, 5), mask)
    values, seen, grid, same_mask = given
    held = mask.flatten(1)
    assert torch.equal(seen[held], tokens[held]) and torch.equal(values[held], aggregation.value(tokens)[held])
    assert not seen[~held].any() and not values[~held].any()
    assert grid == (3, 5) and same_mask is mask
