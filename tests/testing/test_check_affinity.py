"""Every registered word and kinds of other people pass the checks; each check notices a kind that is wrong in it."""

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
from wrong_kinds import WRONG, TwiceWrong

from contagg.affinity import Affinity, DepthwiseConv, Site, list_affinities
from contagg.affinity.base import each_alone, rows_alone
from contagg.affinity.registry import build_affinity
from contagg.errors import UserError
from contagg.testing import CHECKS, FailedChecks, check_affinity
from contagg.testing.case import GRID, Case

CHECK = {check.__name__: check for check in CHECKS}
INAPPLICABLE = {"reach", "prefix_tokens"} | ({"onnx"} if importlib.util.find_spec("onnxruntime") is None else set())


MIXTURES = ["attention + dwconv5", "attention + token mlp"]
# Of each family one stays in the suite: exporting takes 7 to 25 s each.
LONG_GRAPHS = {
    *("delta", "cross scan16", "window7 shifted", "heat", "neighborhood7", "outlook3"),
    *("attention relative", "attention gated", "attention diff", "attention/64", "dwconv5/32", "toeplitz/32"),
    "attention + token mlp",
}


def is_slow(word: str) -> bool:
    """Long graphs, and kinds that other tests registered before these were collected."""
    ours = type(build_affinity(word, Site(channels=64, grid=GRID))).__module__.startswith("contagg.")
    return word in LONG_GRAPHS or not ours


WORDS = [
    pytest.param(word, marks=pytest.mark.slow) if is_slow(word) else word for word in (*list_affinities(), *MIXTURES)
]


def test_what_is_slow_is_registered_or_mixed() -> None:
    assert {*list_affinities(), *MIXTURES} >= LONG_GRAPHS


@pytest.mark.parametrize("word", WORDS)
def test_every_registered_kind_is_whole(word: str) -> None:
    assert check_affinity(word).keys() <= INAPPLICABLE


class Mean(Affinity):
    """Every token gathers the mean of all: a kind that leaves padded batches to the package."""

    dynamic = False
    heads = 1

    def forward(self, values, tokens, grid, mask=None):
        if mask is not None:
            return each_alone(self, values, tokens, mask)
        return values.mean(1, keepdim=True).expand_as(values)

    def rows(self, tokens, grid, positions, mask=None):
        if mask is not None:
            return rows_alone(self, tokens, grid, positions, mask)
        return tokens.new_full((1, 1, len(positions), tokens.shape[1]), 1 / tokens.shape[1])

    def multiply_adds(self, grid):
        return 0


class Unpadded(DepthwiseConv):
    """Rows that differ from place to place, left to the package likewise."""

    def forward(self, values, tokens, grid, mask=None):
        return super().forward(values, tokens, grid) if mask is None else each_alone(self, values, tokens, mask)

    def rows(self, tokens, grid, positions, mask=None):
        if mask is not None:
            return rows_alone(self, tokens, grid, positions, mask)
        return super().rows(tokens, grid, positions)


@pytest.mark.parametrize("factory", [lambda site: Mean(), lambda site: Unpadded(site.channels)], ids=["mean", "conv"])
def test_a_kind_that_knows_no_masks_is_whole_image_by_image(factory: Callable[[Site], Affinity]) -> None:
    assert check_affinity(factory).keys() <= INAPPLICABLE


@pytest.mark.parametrize(
    ("name", "factory", "message"), WRONG, ids=[f"{name} {number}" for number, (name, *_) in enumerate(WRONG)]
)
def test_each_check_notices_what_is_wrong(name: str, factory: Callable[[Site], Affinity], message: str | None) -> None:
    if name in INAPPLICABLE - {"reach", "prefix_tokens"}:
        pytest.skip("onnx is not installed")
    with pytest.raises(Exception, match=message):
        CHECK[name](Case(factory, 64))


def test_every_check_is_seen_to_notice() -> None:
    assert {name for name, *_ in WRONG} == set(CHECK)


def test_one_error_lists_each_failed_check_by_name() -> None:
    message = r"TwiceWrong fails 2 of 25 checks\n  padded_batch: Assert.*\n  multiply_adds: Assert.* a counter finds 0$"
    with pytest.raises(FailedChecks, match=message) as caught:
        check_affinity(TwiceWrong)
    assert list(caught.value.failures) == ["padded_batch", "multiply_adds"]


@pytest.mark.parametrize(
    ("word", "channels", "message"),
    [
        (
            "attention",
            16,
            r"check_affinity\(\.\.\., channels=16\): attention: head width 32 does not divide",
        ),
        ("atention", 64, "Did you mean 'attention'"),
        ("identity", 3, "3 channels; 4 at least"),
        (DepthwiseConv(64, 3), 64, "an affinity that was made already, DepthwiseConv; give a word, or a class"),
        (5, 64, "affinity: 5; give a word, or a class"),
    ],
)
def test_what_cannot_be_made_is_one_line_and_no_list_of_failures(word: Any, channels: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_affinity(word, channels)
