"""Kernels of the tokens' own against timm's VOLO, torchvision's deformable convolution and the definition."""

import pytest
import torch
import torch.nn.functional as F
from test_attention_positions import GRID, drawn
from timm.models.volo import OutlookAttention
from torchvision.ops import deform_conv2d

from contagg.affinity import Site, build_affinity
from contagg.errors import UserError


def test_dynamic_convolution_is_involution() -> None:
    affinity, values, tokens = drawn("dynamic3/8")
    kernel = affinity.kernel(tokens).mT.view(2, 4, 1, 9, 35)
    around = F.unfold(values.mT.unflatten(2, GRID), 3, padding=1).view(2, 4, 8, 9, 35)
    torch.testing.assert_close(affinity(values, tokens, GRID), (kernel * around).sum(3).flatten(1, 2).mT)


@pytest.mark.parametrize("size", [3, 5])
def test_outlook_is_volos(size: int) -> None:
    affinity, _, tokens = drawn(f"outlook{size}/16")
    volo = OutlookAttention(32, 2, kernel_size=size, padding=size // 2).double().eval()
    volo.attn, volo.v, volo.proj = affinity.kernel, torch.nn.Identity(), torch.nn.Identity()
    torch.testing.assert_close(affinity(tokens, tokens, GRID), volo(tokens.unflatten(1, GRID)).flatten(1, 2))


@pytest.mark.parametrize("spread", [0.0, 0.1, 1.0])
def test_deformable_convolution_is_torchvisions(spread: float) -> None:
    """With larger offsets points lie beyond the grid, and between its edge and there."""
    affinity, values, tokens = drawn("deformable9/16")
    torch.nn.init.normal_(affinity.offset.weight, std=spread)
    offset, share = (layer(tokens).mT.unflatten(2, GRID) for layer in (affinity.offset, affinity.kernel))
    share = share.unflatten(1, (2, 9)).softmax(2).flatten(1, 2)
    feature_map, ones = values.mT.unflatten(2, GRID), torch.ones(32, 1, 3, 3).double()
    expected = deform_conv2d(feature_map, offset, ones, padding=1, mask=share)
    torch.testing.assert_close(affinity(values, tokens, GRID), expected.flatten(2).mT)
    assert (affinity.matrix(tokens, GRID).count_nonzero(dim=-1) <= 4 * 9).all()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("dynamic4", "dynamic4: the size must be odd"),
        ("outlook2", "outlook2: the size must be odd"),
        ("deformable4", "deformable4: .*odd"),
        ("deformable8", "deformable8: the number of points must be an odd square"),
        ("dynamic3/7", "dynamic3: head width 7 does not divide 32 channels"),
    ],
)
def test_sizes_that_cannot_be(word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_affinity(word, Site(channels=32, grid=GRID))


@pytest.mark.parametrize("word", ["dynamic3", "outlook3", "deformable9"])
def test_class_tokens_have_no_place(word: str) -> None:
    tokens = torch.zeros(1, 36, 32)
    with pytest.raises(UserError, match=f"{word}: 36 tokens do not fill a grid of 5 x 7"):
        build_affinity(word, Site(channels=32, grid=GRID))(tokens, tokens, GRID)
