"""Attention with closed heads: the static A against least squares over all entries, and what closing saves."""

import copy
import itertools

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from contagg.affinity import SelfAttention, Site, build_affinity
from contagg.affinity.base import by_matrix
from contagg.affinity.fitting import HeadFit
from contagg.affinity.static_heads import PartlyStaticAttention, StaticHeads, with_static_heads
from contagg.errors import UserError
from contagg.testing import check_affinity

GRID, CHANNELS, WIDTH = (5, 3), 24, 8


def attention(prefix: int) -> SelfAttention:
    torch.manual_seed(0)
    return SelfAttention(CHANNELS, WIDTH, prefix)


def tokens(prefix: int, images: int = 3) -> Tensor:
    return 2 * torch.randn(images, prefix + GRID[0] * GRID[1], CHANNELS)


def fitted(source: torch.nn.Module, seen: Tensor, size: int = 3) -> StaticHeads:
    fit = HeadFit(source, size)  # type: ignore[arg-type]
    fit.add(seen[:2], GRID)
    fit.add(seen[2:], GRID)
    return fit.heads(WIDTH)


def least_squares(matrices: Tensor, prefix: int, size: int) -> Tensor:
    """The nearest A of the form to (B, M, N, N), (M, N, N), by a solver over all entries and all unknowns."""
    count, width, reach = matrices.shape[-1], GRID[1], size // 2
    far, given = size**2, size**2 + 1
    design = torch.zeros(count, count, given + prefix + prefix * count, dtype=torch.float64)
    for i in range(count):
        for j in range(count):
            if i < prefix:
                design[i, j, given + prefix + i * count + j] = 1
            elif j < prefix:
                design[i, j, given + j] = 1
            else:
                a, b = i - prefix, j - prefix
                down, across = b // width - a // width, b % width - a % width
                design[i, j, far] = 1
                if max(abs(down), abs(across)) <= reach:
                    design[i, j, (down + reach) * size + across + reach] = 1
    wanted = matrices.double().flatten(2).flatten(0, 1)  # (B M, N N)
    solved = torch.linalg.lstsq(design.flatten(0, 1), wanted.T, driver="gelsd").solution
    every = (design.flatten(0, 1) @ solved).T.unflatten(0, matrices.shape[:2]).unflatten(2, (count, count))
    return every.mean(0)  # least squares are linear in what is fitted


@pytest.mark.parametrize("prefix", [0, 1, 3])
@pytest.mark.parametrize("size", [3, 5])
def test_the_static_heads_are_what_least_squares_finds(prefix: int, size: int) -> None:
    source, seen = attention(prefix), tokens(prefix)
    expected = least_squares(source.matrix(seen, GRID).detach(), prefix, size)
    found = fitted(source, seen, size).matrix(seen, GRID)[0].double()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prefix", [0, 2])
def test_a_head_of_the_form_is_found_again_and_closed_without_a_trace(prefix: int) -> None:
    """Queries of 0 make all alike, which is in the form; the others' A stays."""
    source, seen = attention(prefix), tokens(prefix)
    with torch.no_grad():
        source.query.weight[WIDTH : 2 * WIDTH] = 0
        source.query.bias[WIDTH : 2 * WIDTH] = 0
    closed = with_static_heads(source, [2], fitted(source, seen), GRID)
    values = tokens(prefix)
    torch.testing.assert_close(closed(values, seen, GRID), source(values, seen, GRID))
    assert closed.open_heads() == (1, 3) and closed.dynamic
    again = with_static_heads(closed, [3], fitted(closed, seen), GRID)
    direct = with_static_heads(source, [2, 3], fitted(source, seen), GRID)
    assert again.open_heads() == (1,)
    torch.testing.assert_close(again(values, seen, GRID), direct(values, seen, GRID))


def test_closed_heads_have_no_queries_and_keys() -> None:
    source, seen = attention(1), tokens(1, images=1)
    static = fitted(source, tokens(1))

    def counted(affinity: torch.nn.Module) -> int:
        with FlopCounterMode(display=False) as counter:
            copy.deepcopy(affinity).to("meta")(seen.to("meta"), seen.to("meta"), GRID)
        return counter.get_total_flops() // 2

    costs, on_grid = [counted(source)], GRID[0] * GRID[1]
    for closed in ([2], [1, 2], [1, 2, 3]):
        partly = with_static_heads(source, closed, static, GRID)
        costs.append(counted(partly))
        assert costs[-1] == partly.multiply_adds(GRID)
        learnt = sum(p.numel() for name, p in partly.named_parameters() if "query" in name or "key" in name)
        assert learnt == (3 - len(closed)) * 2 * WIDTH * (CHANNELS + 1)
    count = on_grid + 1
    head = 2 * count * CHANNELS * WIDTH + 2 * count**2 * WIDTH
    saved = head - WIDTH * (9 * on_grid + count)
    assert [before - after for before, after in itertools.pairwise(costs)] == [saved] * 3
    assert not partly.dynamic and partly.projections() == []


@pytest.mark.parametrize(
    "word",
    [pytest.param("attention/16 static3 in heads 4 2", marks=pytest.mark.slow), "attention static5 in heads 1 2"],
)
def test_words_of_some_and_of_all_heads_are_whole(word: str) -> None:
    assert check_affinity(word).keys() <= {"reach", "onnx"}


def test_a_word_says_which_heads_are_closed() -> None:
    made = build_affinity("attention/8 static3 in heads 1 3", Site(channels=CHANNELS, grid=GRID, prefix=2))
    assert isinstance(made, PartlyStaticAttention) and made.open_heads() == (2,) and made.grid == GRID
    seen = tokens(2)
    torch.testing.assert_close(made(seen, seen, GRID), by_matrix(made, seen, seen, GRID))
    written = made.form(seen[:1], GRID)
    assert written is not None
    torch.testing.assert_close(written.rows(torch.arange(17)), made.matrix(seen[:1], GRID)[0])


def test_dropout_stays_with_the_heads_that_are_open() -> None:
    source = SelfAttention(CHANNELS, WIDTH, attn_drop=0.25)
    closed = with_static_heads(source, [2], fitted(source, tokens(0)), GRID)
    assert closed.attention is not None and closed.attention.attn_drop == closed.attn_drop == 0.25


def test_rows_of_class_tokens_are_resized_with_their_sums() -> None:
    source, seen = attention(2), tokens(2)
    closed = with_static_heads(source, [1, 2, 3], fitted(source, seen), GRID)
    before = closed.matrix(seen, GRID)[0]
    larger = torch.randn(1, 2 + 77, CHANNELS)
    with pytest.raises(UserError, match=r"its 2 prefix tokens have rows for one grid; it cannot serve 7 x 11"):
        closed(larger, larger, (7, 11))
    closed.resize((7, 11))
    after = closed.matrix(larger, (7, 11))[0]
    torch.testing.assert_close(after[:, :2, :2], before[:, :2, :2])
    torch.testing.assert_close(after[:, :2].sum(-1), before[:, :2].sum(-1))
    torch.testing.assert_close(after[:, 2:, :2], before[:, 2:3, :2].expand(-1, 77, -1))
    inside = after[:, 2 + 3 * 11 + 5].sum(-1), before[:, 2 + 2 * 3 + 1].sum(-1)  # of rows that no border cuts off
    torch.testing.assert_close(*inside)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("attention/8 static3 in heads 4", "of 24 channels there are heads 1 to 3"),
        ("attention/8 static3 in heads 0", "sizes start at 1"),
        ("attention/8 static4 in heads 1", "kernel size must be odd"),
        ("attention/7 static3 in heads 1", "head width 7 does not divide 24 channels"),
        ("attention/8 static3 in heads", "is not a known affinity. Did you mean 'attention static7 in heads 1'"),
    ],
)
def test_words_that_cannot_be(word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_affinity(word, Site(channels=CHANNELS, grid=GRID))
