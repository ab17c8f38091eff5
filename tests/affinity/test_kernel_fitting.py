"""The kernel nearest to a mean A, against least squares over every entry of A."""

import pytest
import torch

from contagg.affinity import DepthwiseConv, SelfAttention, Site, build_affinity
from contagg.affinity.base import spread
from contagg.affinity.fitting import KernelFit, static_form
from contagg.errors import UserError


def least_squares(matrices: torch.Tensor, grid: tuple[int, int], size: int) -> torch.Tensor:
    """(M, k, k) of A (B, M, N, N), by a solver: a row of the system for each pair within the window."""
    height, width = grid
    design, targets, reach = [], [], size // 2
    for i in range(height * width):
        for j in range(height * width):
            down, across = j // width - i // width, j % width - i % width
            if max(abs(down), abs(across)) <= reach:
                row = torch.zeros(size * size, dtype=torch.float64)
                row[(down + reach) * size + across + reach] = 1
                design += [row] * len(matrices)
                targets.append(matrices[:, :, i, j])
    solved = torch.linalg.lstsq(torch.stack(design), torch.cat(targets).double()).solution
    return solved.T.unflatten(1, (size, size))


@pytest.mark.parametrize("word", ["attention/8", "window2/8", "attention/8 rope"])
@pytest.mark.parametrize("size", [3, 5])
def test_it_is_what_least_squares_finds(word: str, size: int) -> None:
    torch.manual_seed(0)
    grid = (5, 7)
    affinity = build_affinity(word, Site(channels=24, grid=grid))
    tokens = 3 * torch.randn(4, 35, 24)
    fit = KernelFit(affinity, size)
    fit.add(tokens[:3], grid)
    fit.add(tokens[3:], grid)
    expected = least_squares(affinity.matrix(tokens, grid).expand(4, -1, -1, -1).detach(), grid, size)
    torch.testing.assert_close(fit.kernel.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_convolution_is_found_again_whatever_the_grid() -> None:
    torch.manual_seed(0)
    convolution = DepthwiseConv(6, kernel_size=3, head_width=2, bias=False)
    fit = KernelFit(convolution, 5)
    for grid in ((5, 7), (3, 2)):
        fit.add(torch.zeros(1, grid[0] * grid[1], 6), grid)
    torch.testing.assert_close(fit.kernel[:, 1:4, 1:4], convolution.weight[:, 0].detach())
    assert fit.kernel[:, 0].abs().max() == 0
    x = torch.randn(2, 35, 6)
    torch.testing.assert_close(fit.convolution(6)(x, x, (5, 7)), convolution(x, x, (5, 7)))


def test_class_tokens_are_left_out() -> None:
    torch.manual_seed(0)
    attention, tokens = SelfAttention(8, head_width=8, prefix=1), torch.randn(2, 36, 8)
    fit = KernelFit(attention, 3)
    fit.add(tokens, (5, 7))
    matrix = attention.matrix(tokens, (5, 7))[..., 1:, 1:].detach()
    torch.testing.assert_close(fit.kernel.double(), least_squares(matrix, (5, 7), 3), rtol=1e-5, atol=1e-6)


def test_an_even_kernel_has_no_centre() -> None:
    with pytest.raises(UserError, match="a fitted kernel of 4"):
        KernelFit(SelfAttention(32), 4)


@pytest.mark.parametrize("gate", ["free/head", "sigmoid", "sum"])
@pytest.mark.parametrize("word", ["attention/8 + dwconv5", "dwconv3/4 + attention/8"])
def test_a_mixture_with_a_convolution_becomes_one_convolution(word: str, gate: str) -> None:
    torch.manual_seed(0)
    mixture = build_affinity(word, Site(channels=24, grid=(5, 7)), gate).closable()  # type: ignore[arg-type]
    assert mixture is not None
    x = torch.randn(2, 35, 24)
    fit = KernelFit(mixture.dynamic_part(), 3)
    fit.add(x, (5, 7))
    fitted = fit.convolution(24)
    form = static_form(mixture, fitted)
    assert form is not None and not form.dynamic and all(p.requires_grad for p in form.parameters())
    alpha, beta = (torch.ones(1) if weight is None else weight for weight in mixture.gate())
    of_fitted, of_static = (alpha, beta) if mixture.dynamic_first else (beta, alpha)
    expected = spread(of_fitted, 24) * fitted(x, x, (5, 7)) + spread(of_static, 24) * mixture.static_part()[0](
        x, x, (5, 7)
    )
    torch.testing.assert_close(form(x, x, (5, 7)), expected, rtol=1e-4, atol=1e-5)


def test_what_has_no_form_together_with_a_convolution() -> None:
    mixture = build_affinity("attention/8 + token mlp/8", Site(channels=24, grid=(5, 7))).closable()
    assert mixture is not None
    assert static_form(mixture, DepthwiseConv(24, 3, bias=False)) is None
