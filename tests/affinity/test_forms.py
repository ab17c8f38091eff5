"""The forms of A against the matrix that they stand for, formed by torch in another way."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from contagg.affinity import Grid, SelfAttention, Site, build_affinity, list_affinities
from contagg.affinity.bands import Band, Sparse
from contagg.affinity.forms import Dense, Factors, Form, Product, Sum
from contagg.affinity.scores import Scores
from contagg.testing.case import Case
from contagg.testing.numbers import form

GRID, M = (3, 5), 2
N = 15


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def whole() -> tuple[Form, Tensor]:
    query, key, place = normal(1, M, N, 3), normal(1, M, N, 3), torch.arange(N)[None]
    bias, sink = normal(1, M, N, N), normal(M, 1, 1)
    scores = torch.cat([0.5 * query @ key.mT + bias, sink.expand(1, M, N, 1)], 3).softmax(-1)
    form = Scores(
        query=query, key=key, query_place=place, key_place=place, shape=(N, N), scale=0.5, bias=(bias,), sink=sink
    )
    return form, scores[0, ..., :-1]


def windows() -> tuple[Form, Tensor]:
    """Groups of four places in any order, the last filled up by one; a key shut out, another place twice."""
    place = torch.cat([torch.randperm(N), torch.tensor([-1])]).view(4, 4)
    twice = place.clone()
    twice[1, 2] = twice[1, 0]
    query, key = normal(4, M, 4, 3), normal(4, M, 4, 3)
    shut = torch.zeros(4, 1, 1, 4, dtype=torch.float64)
    shut[2, ..., 1] = -torch.inf
    matrix = torch.zeros(M, N, N, dtype=torch.float64)
    for group in range(4):
        scores = query[group] @ key[group].mT + shut[group]
        scores[..., twice[group] < 0] = -torch.inf
        shares = scores.softmax(-1)
        for row, to in enumerate(place[group].tolist()):
            for column, source in enumerate(twice[group].tolist()):
                if to >= 0 and source >= 0:
                    matrix[:, to, source] += shares[:, row, column]
    form = Scores(query=query, key=key, query_place=place, key_place=twice, shape=(N, N), bias=(shut,))
    return form, matrix


def pooled() -> tuple[Form, Tensor]:
    """Seven gathering places and keys that several places share; one place is in no key."""
    query, key, key_of_place = normal(1, M, 7, 3), normal(1, M, 4, 3), torch.randint(0, 4, (N,))
    key_of_place[3] = -1
    pooling = F.one_hot(key_of_place.clamp_min(0), 4).to(key) * (key_of_place >= 0)[:, None]
    pooling = pooling / pooling.sum(0).clamp_min(1)
    form = Scores(query=query, key=key, query_place=torch.arange(7)[None], key_of_place=key_of_place, shape=(7, N))
    return form, (query @ key.mT).softmax(-1)[0] @ pooling.T


def band(mode: str, dilation: int, size: tuple[int, int]) -> Callable[[], tuple[Form, Tensor]]:
    def make() -> tuple[Form, Tensor]:
        kernel = normal(M, *size)
        unit = torch.eye(N, dtype=torch.float64).view(N, 1, *GRID)
        reach = [dilation * (side // 2) for side in size]
        after = [dilation * (side - 1) - before for side, before in zip(size, reach, strict=True)]
        padding = (reach[1], after[1], reach[0], after[0])
        padded = F.pad(unit, padding, "constant" if mode in ("zeros", "mean") else mode)
        matrix = F.conv2d(padded.expand(N, M, -1, -1), kernel[:, None], dilation=dilation, groups=M).permute(1, 2, 3, 0)
        matrix = matrix.flatten(1, 2)
        if mode == "mean":
            held = matrix.abs().sum(2, keepdim=True)
            matrix = matrix * kernel.abs().sum((1, 2)).view(M, 1, 1) / held
        return Band(kernel=kernel, grid=GRID, dilation=dilation, padding=mode), matrix  # type: ignore[arg-type]

    return make


def band_of_each_position() -> tuple[Form, Tensor]:
    """Involution: kernels of their own over unfolded neighbours; with a class token before the grid."""
    kernel = normal(N, M, 3, 3)
    unit = torch.eye(N, dtype=torch.float64).view(N, 1, *GRID)
    around = F.unfold(unit, 3, padding=1)  # (N sources, 9, N positions)
    matrix = F.pad(torch.einsum("imk,jki->mij", kernel.flatten(2), around), (1, 0, 1, 0))
    return Band(kernel=kernel, grid=GRID, prefix=1), matrix


def factors() -> tuple[Form, Tensor]:
    left, right = normal(M, 7, 2), normal(M, N, 2)
    return Factors(left=left, right=right), torch.einsum("mir,mjr->mij", left, right)


def dense() -> tuple[Form, Tensor]:
    matrix = normal(M, 7, N)
    return Dense(matrix=matrix), matrix.clone()


def sparse() -> tuple[Form, Tensor]:
    weights, targets = normal(M, N, 3), torch.randint(-1, N, (1, N, 3))
    matrix = torch.zeros(M, N, N, dtype=torch.float64)
    for row in range(N):
        for entry in range(3):
            if targets[0, row, entry] >= 0:
                matrix[:, row, targets[0, row, entry]] += weights[:, row, entry]
    return Sparse(weights=weights, targets=targets, places=N), matrix


def product() -> tuple[Form, Tensor]:
    (second, after), (first, before) = factors(), windows()
    return Product(second=second, first=first), after @ before


def mixture() -> tuple[Form, Tensor]:
    """One head of the first form stands for two of the second's."""
    (first, some), (second, others) = whole(), (Band(kernel=normal(4, 3, 3), grid=GRID), None)
    others = second.rows(torch.arange(N))
    alpha, beta = normal(2), normal(1)
    matrix = alpha.repeat_interleave(2).view(4, 1, 1) * some.repeat_interleave(2, 0) + beta * others
    return Sum(parts=((alpha, first), (beta, second))), matrix


BANDS = [
    pytest.param(band(mode, dilation, size), id=f"{mode} {dilation} {size}")
    for mode in ("zeros", "circular", "reflect", "replicate", "mean")
    for dilation, size in ((1, (3, 3)), (2, (3, 1)), (1, (2, 4)))
]
FORMS = [whole, windows, pooled, band_of_each_position, factors, dense, sparse, product, mixture, *BANDS]


@pytest.mark.parametrize("make", FORMS)
def test_rows_columns_and_products_are_those_of_the_matrix(make: Callable[[], tuple[Form, Tensor]]) -> None:
    torch.manual_seed(0)
    form, matrix = make()
    assert (form.heads, *form.shape) == matrix.shape
    places = torch.tensor([3, 0, 3, 6])
    torch.testing.assert_close(form.rows(places), matrix[:, places])
    torch.testing.assert_close(form.columns(places), matrix[:, :, places])
    for heads in (1, form.heads):
        weights, values = normal(heads, 2, matrix.shape[1]), normal(heads, matrix.shape[2], 2)
        torch.testing.assert_close(form.pull(weights), weights @ matrix)
        torch.testing.assert_close(form.push(values), matrix @ values)


def test_a_row_without_a_key_is_zero() -> None:
    place = torch.arange(2)[None]
    shut = torch.full((1, 1, 2, 2), -torch.inf)
    form = Scores(
        query=torch.ones(1, 1, 2, 1),
        key=torch.ones(1, 1, 2, 1),
        query_place=place,
        key_place=place,
        shape=(2, 2),
        bias=(shut,),
    )
    assert not form.rows(torch.arange(2)).any()


def test_scores_without_places_of_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="key_place"):
        Scores(query=normal(1, 1, 1, 1), key=normal(1, 1, 1, 1), query_place=torch.zeros(1, 1), shape=(1, 1))


@pytest.mark.parametrize("word", [*list_affinities(), "attention/32 + dwconv3", "decay + attention diff"])
def test_every_kind_writes_its_matrix_down(word: str) -> None:
    torch.manual_seed(0)
    form(Case(word, 64))


def test_a_class_token_is_in_the_form() -> None:
    site = Site(channels=64, grid=GRID, prefix=1)
    tokens = normal(1, N + 1, 64)
    for word in (
        "attention",
        "attention relative",
        "attention rope",
        "attention sink",
        "linear",
        "token mlp rank 4",
        "scan16",
    ):
        affinity = build_affinity(word, site).double()
        written = affinity.form(tokens, GRID)
        assert written is not None
        torch.testing.assert_close(written.rows(torch.arange(N + 1)), affinity.matrix(tokens, GRID)[0])


def test_rows_of_another_kind_are_not_written_down_as_those_of_the_kind_it_derives_from() -> None:
    class Halved(SelfAttention):
        def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
            return super().rows(tokens, grid, positions, mask) / 2

    tokens, halved = normal(1, N, 64), Halved(64).double()
    written = halved.form(tokens, GRID)
    assert written is not None
    torch.testing.assert_close(written.rows(torch.arange(N)), halved.matrix(tokens, GRID)[0])


def test_a_matrix_that_is_too_large_is_not_formed() -> None:
    affinity = build_affinity("heat", Site(channels=64, grid=(64, 64)))
    assert affinity.form(torch.randn(1, 4096, 64), (64, 64)) is None
