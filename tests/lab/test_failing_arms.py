"""Arms that fail: the others are made and reported, and what failed is one line that names the arm and the place."""

import re
from pathlib import Path

import pytest
from laboratory import fail, rows, written
from tiny_recipes import DINO
from torch import Tensor

import contagg
from contagg.affinity import Affinity, Grid, Site, registry


def test_a_run_that_fails_stops_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A rate that makes the loss infinite in the first epoch; what is right is made and reported."""
    hot = ("--arm", "hot", "optimization.lr=1e38", "--seeds", "1")
    assert fail(written(tmp_path), tmp_path / "none", *hot) == "2"
    out, _ = capsys.readouterr()
    assert "measuring" not in out  # of what has no run nothing is to be said
    arms = ("--affinity", "identity", *hot, "--rounds", "0")
    assert fail(written(tmp_path), tmp_path / "out", *arms) == "2"
    out, err = capsys.readouterr()
    assert "hot, seed 0: failed: " in out and "[1/2] identity, seed 0: accuracy" in out
    assert "1 run failed, the first 'hot' with seed 0: " in err and "log.txt" in err
    assert set(rows(tmp_path / "out")) == {("identity", 0)}


@pytest.mark.parametrize("every", [0, 4])
def test_runs_that_never_measure_what_is_compared_are_not_made(
    every: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """DINO without labels, or whose first question to the neighbours comes after the last epoch."""
    recipe = DINO | {"knn": DINO["knn"] | {"every": every}, "run": DINO["run"] | {"folder": "unused"}}
    assert fail(written(tmp_path, recipe), tmp_path / "out", "--arm", "a") == "2"
    error = capsys.readouterr().err
    assert "arm 'a': its runs never measure accuracy_knn3, by which" in error and "--metric train_loss" in error
    assert not (tmp_path / "out").exists()


class FailsWhenCalled(Affinity):
    """A mixer of one's own that has a mistake in it: in all modes, or while it trains alone."""

    dynamic, heads = False, 1

    def __init__(self, site: Site, only_training: bool) -> None:
        super().__init__()
        self.only_training = only_training

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        if self.training or not self.only_training:
            raise RuntimeError("the first line\nand the second")
        return values

    def rows(self, tokens: Tensor, grid: Grid, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def multiply_adds(self, grid: Grid) -> int:
        return 0


@pytest.mark.parametrize(
    ("word", "options"), [("fails", ()), ("fails", ("--match", "macs")), ("fails training", ("--dry-run",))]
)
def test_a_mixer_that_fails_is_one_line_with_its_arm_and_place(
    word: str,
    options: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("contagg.names._plugged", lambda group: True)  # as the word of an installed package
    monkeypatch.setattr(registry, "_KINDS", dict(registry._KINDS))
    contagg.register_affinity("fails", lambda site: FailsWhenCalled(site, only_training=False))
    contagg.register_affinity("fails training", lambda site: FailsWhenCalled(site, only_training=True))
    assert fail(written(tmp_path), tmp_path / "out", "--affinity", "identity", word, *options) == "2"
    error = capsys.readouterr().err
    assert f"arm '{word}': RuntimeError: the first line\\nand the second (" in error
    assert re.search(r"test_failing_arms\.py, line \d+\)$", error.strip())
