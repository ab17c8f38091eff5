"""Filters, heat and tables of offsets against the matrices that define them, written out."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import contagg
from contagg.affinity import Affinity, Site, build_affinity
from contagg.affinity.spectral import GlobalFilter, Heat, Toeplitz, fft_multiply_adds
from contagg.benchmark.cost import multiply_adds
from contagg.errors import UserError

CHANNELS = 4


def drawn(affinity: Affinity, grid: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """A by definition, (C, N, N), from `entry`; and values (1, N, C)."""
    torch.manual_seed(2)
    return affinity.double(), torch.randn(1, grid[0] * grid[1], CHANNELS, dtype=torch.float64)


def places(grid: tuple[int, int]) -> torch.Tensor:
    """(N, N, 2): from column's token to row's, in rows and columns."""
    every = torch.cartesian_prod(*(torch.arange(length) for length in grid)).view(-1, 2)
    return every[:, None] - every


@pytest.mark.parametrize("grid", [(5, 7), (6, 8), (2, 11)])
def test_filter_is_circulant_on_both_sides(grid: tuple[int, int]) -> None:
    affinity, values = drawn(GlobalFilter(CHANNELS, grid), grid)
    kernel = torch.fft.irfft2(torch.view_as_complex(affinity.weight), s=grid)
    offsets = places(grid) % torch.tensor(grid)
    matrix = kernel[:, offsets[..., 0], offsets[..., 1]]
    expected = torch.einsum("cij,bjc->bic", matrix, values)
    torch.testing.assert_close(affinity(values, values, grid), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(affinity.matrix(values, grid)[0], matrix, rtol=0, atol=0)
    turned = values.unflatten(1, grid).roll((1, 2), (1, 2)).flatten(1, 2)
    answer = affinity(values, values, grid).unflatten(1, grid).roll((1, 2), (1, 2)).flatten(1, 2)
    torch.testing.assert_close(affinity(turned, turned, grid), answer, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("old", "new"), [((5, 7), (9, 8)), ((6, 8), (7, 13)), ((1, 4), (2, 5))])
def test_a_filter_on_a_larger_grid_keeps_its_size_in_tokens(old: tuple[int, int], new: tuple[int, int]) -> None:
    affinity, _ = drawn(GlobalFilter(CHANNELS, old), old)
    small = affinity._kernel().roll((old[0] // 2, old[1] // 2), (1, 2))
    affinity.resize(new)
    large = affinity._kernel().roll((new[0] // 2, new[1] // 2), (1, 2))
    top, left = (length // 2 - before // 2 for before, length in zip(old, new, strict=True))
    inner = large[:, top : top + old[0], left : left + old[1]]
    torch.testing.assert_close(inner, small, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(large.abs().sum(), small.abs().sum(), rtol=1e-12, atol=1e-12)
    affinity.resize(old)  # what was put around it is cut again
    torch.testing.assert_close(affinity._kernel().roll((old[0] // 2, old[1] // 2), (1, 2)), small)


@pytest.mark.parametrize("grid", [(5, 7), (1, 11), (6, 2)])
@pytest.mark.parametrize("head_width", [1, 2])
def test_toeplitz_is_a_table_of_offsets(grid: tuple[int, int], head_width: int) -> None:
    affinity, values = drawn(Toeplitz(CHANNELS, grid, head_width), grid)
    offsets = places(grid) + torch.tensor(grid) - 1
    matrix = affinity.weight[:, offsets[..., 0], offsets[..., 1]]
    expected = torch.einsum("cij,bjc->bic", matrix.repeat_interleave(head_width, 0), values)
    torch.testing.assert_close(affinity(values, values, grid), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(affinity.matrix(values, grid)[0], matrix, rtol=0, atol=0)


def test_a_toeplitz_table_keeps_the_sum_over_a_smooth_area() -> None:
    affinity, values = drawn(Toeplitz(CHANNELS, (8, 8)), (8, 8))
    distance = torch.linspace(-1, 1, 15, dtype=torch.float64).abs()
    affinity.weight.data.copy_((2 - distance[:, None] - distance).expand(CHANNELS, -1, -1))
    before = affinity(torch.ones_like(values), values, (8, 8)).mean()
    affinity.resize((16, 16))
    wide = torch.ones(1, 256, CHANNELS, dtype=torch.float64)
    torch.testing.assert_close(affinity(wide, wide, (16, 16)).mean(), before, rtol=0.05, atol=0)


@pytest.mark.parametrize("grid", [(5, 7), (1, 11), (6, 2)])
def test_heat_is_a_cosine_spectrum_that_decays(grid: tuple[int, int]) -> None:
    affinity, values = drawn(Heat(CHANNELS), grid)
    bases, squares = [], []
    for length in grid:
        index = torch.arange(length, dtype=torch.float64)
        basis = torch.cos(math.pi / length * index[:, None] * (index + 0.5)) * math.sqrt(2 / length)
        basis[0] /= math.sqrt(2)
        torch.testing.assert_close(basis @ basis.T, torch.eye(length, dtype=torch.float64))
        bases.append(basis)
        squares.append((math.pi / length * index) ** 2)
    both = torch.kron(*bases)
    decay = torch.exp(-affinity.log_conduction.exp()[:, None] * (squares[0][:, None] + squares[1]).flatten())
    matrix = torch.einsum("pi,cp,pj->cij", both, decay, both)
    expected = torch.einsum("cij,bjc->bic", matrix, values)
    torch.testing.assert_close(affinity(values, values, grid), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(affinity.matrix(values, grid)[0], matrix, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(matrix.sum(-1), torch.ones_like(matrix[..., 0]))  # a mean


def test_transforms_have_a_cost_in_networks_too() -> None:
    assert fft_multiply_adds((8, 8)) == 480  # 5 / 2 * 64 * 6, halved for real numbers
    with FlopCounterMode(display=False) as counter:
        torch.fft.irfft2(torch.fft.rfft2(torch.randn(3, 8, 8)), s=(8, 8))
    assert counter.get_total_flops() == 2 * 2 * 3 * 480
    costs = [
        multiply_adds(contagg.create("container_light_tiny", affinity=word, img_size=64), (64, 64))
        for word in ("identity", "filter")
    ]
    assert costs[1] > costs[0]


@pytest.mark.parametrize("word", ["filter", "toeplitz"])
def test_one_grid_is_served(word: str) -> None:
    affinity = build_affinity(word, Site(channels=CHANNELS, grid=(5, 7)))
    with pytest.raises(UserError, match=f"{word}: it was learnt on a grid of 5 x 7 and cannot serve 7 x 5; resize"):
        affinity(*[torch.randn(1, 35, CHANNELS)] * 2, (7, 5))
    with pytest.raises(UserError, match="toeplitz/3: head width 3 does not divide 4"):
        build_affinity("toeplitz/3", Site(channels=CHANNELS, grid=(5, 7)))
