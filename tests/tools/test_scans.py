"""The command that measures recurrent mixers measures each of its words."""

import pytest

from contagg.affinity import SelfAttention
from tools.scans import WORDS, milliseconds


def test_each_word_and_pass_has_a_time() -> None:
    found = milliseconds(grid=(3, 5), rounds=1)
    assert list(found) == [(word, what) for word in WORDS for what in ("inference", "training")]
    assert all(0 < took < 60_000 for took in found.values())


def test_twice_the_work_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    once = milliseconds(["attention"], (16, 16), 3)
    forward = SelfAttention.forward
    monkeypatch.setattr(SelfAttention, "forward", lambda *args: [forward(*args) for _ in range(8)][-1])
    assert milliseconds(["attention"], (16, 16), 3)["attention", "inference"] > 2 * once["attention", "inference"]
