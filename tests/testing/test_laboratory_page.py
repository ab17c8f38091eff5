"""docs/laboratory.md: its mixer is whole, its networks are made, its package and its commands are found."""

import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import torch

import contagg
from contagg.testing import check_affinity

TEXT = (Path(__file__).parents[2] / "docs" / "laboratory.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def my_mixers() -> ModuleType:
    """The page's file, imported once."""
    module = ModuleType("my_mixers")
    exec(next(code for kind, code in BLOCKS if kind == "python"), module.__dict__)
    return module


def test_the_mixer_passes_all_checks_that_apply_to_it(my_mixers: ModuleType) -> None:
    assert "lines" in contagg.list_affinities()
    assert check_affinity("lines").keys() <= {"reach", "prefix_tokens", "onnx"}


def test_a_token_gathers_the_means_of_its_row_and_column(my_mixers: ModuleType) -> None:
    """By hand, on 2 x 3 tokens of one head."""
    mixer = my_mixers.Lines(contagg.affinity.Site(channels=32, grid=(2, 3)))
    row = mixer.rows(torch.zeros(1, 6, 32), (2, 3), torch.tensor([4]))[0, 0, 0]
    torch.testing.assert_close(row, torch.tensor([0, 0.25, 0, 1 / 6, 0.25 + 1 / 6, 1 / 6]))


def test_the_networks_of_the_page_are_made(my_mixers: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "my_mixers", my_mixers)
    made = []
    create = contagg.create
    monkeypatch.setattr(contagg, "create", lambda *given, **named: made.append(create(*given, **named)), raising=False)
    with torch.device("meta"):
        exec([code for kind, code in BLOCKS if kind == "python"][1])
    assert len(made) == 3 and made[2].num_prefix_tokens == 0


def test_the_package_names_the_file_and_the_entry_point() -> None:
    [project] = [tomllib.loads(code) for kind, code in BLOCKS if kind == "toml"]
    assert project["project"]["entry-points"]["contagg.affinities"] == {"my_mixers": "my_mixers"}
    assert project["tool"]["setuptools"]["py-modules"] == ["my_mixers"] and "`my_mixers.py`" in TEXT
