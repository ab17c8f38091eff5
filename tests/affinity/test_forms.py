"""The forms of A against the matrix that they stand for, formed by torch in another way."""

from collections.abc import Callable

import pytest
import torch
from made_forms import FORMS, GRID, N, normal
from torch import Tensor

from contagg.affinity import Grid, SelfAttention, Site, build_affinity, list_affinities
from contagg.affinity.forms import Form
from contagg.affinity.scores import Scores
from contagg.testing.case import Case
from contagg.testing.numbers import form


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
