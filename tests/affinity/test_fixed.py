"""Kernels with holes and bands, PoolFormer's mean, and MetaFormer's controls: against timm and torch."""

import pytest
import torch
import torch.nn.functional as F
from timm.models.inception_next import InceptionDWConv2d
from timm.models.metaformer import Pooling as PoolFormers

from contagg.affinity import DepthwiseConv, Mixture, Site, build_affinity
from contagg.affinity.base import as_map, as_tokens
from contagg.affinity.fixed import Pooling, RandomMixing, Strips
from contagg.errors import UserError

GRID = (5, 7)


def drawn(grid: tuple[int, int] = GRID, channels: int = 16) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(2, grid[0] * grid[1], channels, dtype=torch.float64)


@pytest.mark.parametrize(("size", "dilation"), [(3, 2), (3, 3), (5, 2)])
def test_dilated_is_torchs(size: int, dilation: int) -> None:
    values = drawn()
    affinity = DepthwiseConv(16, size, dilation=dilation).double()
    reach = dilation * (size // 2)
    expected = F.conv2d(as_map(values, GRID), affinity.weight, affinity.bias, 1, reach, dilation, groups=16)
    torch.testing.assert_close(affinity(values, values, GRID), as_tokens(expected), rtol=1e-12, atol=1e-12)
    assert affinity.local == reach


@pytest.mark.parametrize(
    ("first", "second", "merges"),
    [
        ("dwconv3 dilated 2", "dwconv5 dilated 2", True),
        ("dwconv3 dilated 2", "dwconv5", True),
        ("dwconv7", "dwconv3/4 dilated 3", True),
        ("dwconv3", "dwconv3 dilated 2", False),
        ("dwconv5 dilated 2", "dwconv3 dilated 4", False),
    ],
)
def test_dilated_merge_where_no_hole_is_filled(first: str, second: str, merges: bool) -> None:
    site = Site(channels=16, grid=GRID)
    mixture = Mixture(build_affinity(first, site), build_affinity(second, site), "free").double().eval()
    folded = mixture.fold(torch.ones(1, dtype=torch.float64))
    assert isinstance(folded, DepthwiseConv) == merges
    values = drawn()
    torch.testing.assert_close(folded(values, values, GRID), mixture(values, values, GRID), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("grid", [(5, 7), (13, 3)])
def test_strips_are_inception_nexts(grid: tuple[int, int]) -> None:
    values = drawn(grid)
    reference, affinity = InceptionDWConv2d(16).double(), Strips(16).double()
    branches = reference.dwconv_hw, reference.dwconv_w, reference.dwconv_h
    for kernel, branch in zip(affinity.kernels, branches, strict=True):
        kernel.data.copy_(branch.weight)
    affinity.shifts.data.copy_(torch.cat([branch.bias for branch in branches]))
    expected = as_tokens(reference(as_map(values, grid)))
    torch.testing.assert_close(affinity(values, values, grid), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [3, 5])
def test_pooling_is_poolformers(size: int) -> None:
    values = drawn()
    expected = as_tokens(PoolFormers(size)(as_map(values, GRID)))
    torch.testing.assert_close(Pooling(size)(values, values, GRID), expected, rtol=1e-12, atol=1e-12)
    everywhere = torch.ones(2, *GRID, dtype=torch.bool)
    torch.testing.assert_close(Pooling(size)(values, values, GRID, everywhere), expected, rtol=1e-12, atol=1e-12)


def test_random_mixing_is_a_mean_that_stays_as_drawn() -> None:
    affinity = build_affinity("random", Site(channels=16, grid=GRID, prefix=1))
    assert isinstance(affinity, RandomMixing)
    for count in (36, 64):
        matrix = affinity.factors[0]
        assert matrix.shape == (1, count, count) and not matrix.requires_grad and not matrix.equal(matrix.mT)
        torch.testing.assert_close(matrix.sum(-1), torch.ones(1, count), rtol=0.02, atol=0)
        affinity.resize((7, 9))


@pytest.mark.parametrize("word", ["pool4", "strips10", "dwconv4 dilated 2"])
def test_windows_have_a_centre(word: str) -> None:
    with pytest.raises(UserError, match="must be odd, so that a position has a centre"):
        build_affinity(word, Site(channels=16, grid=GRID))


def test_strips_need_a_channel_for_each_kernel() -> None:
    with pytest.raises(UserError, match="2 channels are too few"):
        Strips(2)
