"""Rows of one's own mixer are of the code that it had."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from laboratory import rows, written

import contagg
from contagg.affinity import DepthwiseConv, registry
from contagg.cli import main
from contagg.errors import UserError
from contagg.lab.arms import read_arms
from contagg.lab.making import Run, _check_code, make
from contagg.lab.own_code import own_code
from contagg.training.run_folder import RunFolder

SOURCE = """
from torch import nn
from contagg.affinity import DepthwiseConv


class Part(nn.Module):
    def forward(self, values):
        return 2 * values


class Base(DepthwiseConv):
    pass


class Mine(Base):
    def __init__(self, site):
        super().__init__(site.channels, 3)
        self.part = Part()

    def forward(self, values, tokens, grid, mask=None):
        return self.part(super().forward(values, tokens, grid, mask))
"""


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a version of the file, and registers its mixer as `mine`."""
    monkeypatch.setattr(registry, "_KINDS", dict(registry._KINDS))
    monkeypatch.setattr("contagg.names._plugged", lambda group: True)  # as the word of an installed package

    def loaded(source: str) -> Any:
        path = tmp_path / f"version_{len(list(tmp_path.glob('version_*')))}.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location("my_own", path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "my_own", module)
        spec.loader.exec_module(module)
        contagg.register_affinity("mine", module.Mine)
        return module

    return loaded


def code(module: Any) -> dict[str, str]:
    words = ("dwconv3", "identity", module.Mine, module.Mine)
    return own_code(contagg.create("container_light_tiny", affinity=words))


def test_each_class_of_ones_own_counts_and_its_layout_does_not(load: Any) -> None:
    before = code(load(SOURCE))
    assert before.keys() == {"my_own.Mine", "my_own.Base", "my_own.Part"}
    assert code(load("\n\n" + SOURCE.replace("return 2 *", "# twice\n        return  2 *"))) == before
    changed = code(load(SOURCE.replace("2 * values", "3 * values")))
    assert {name for name in before if changed[name] != before[name]} == {"my_own.Part"}
    assert own_code(contagg.create("container_light_tiny", affinity="attention + dwconv5")) == {}


def test_rows_of_a_mixer_that_was_changed_since_are_refused(
    load: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(SOURCE)
    recipe, words = written(tmp_path), ("--affinity", "mine", "--seeds", "1", "--rounds", "0")
    arms = read_arms(["-c", recipe], [("affinity", ["mine"])])
    make(Run(arms["mine"], 0, arms.recipe, tmp_path / "out"))
    assert rows(tmp_path / "out")["mine", 0]["own_code"].keys() == {"my_own.Mine", "my_own.Base", "my_own.Part"}
    main(["compare", "-c", recipe, "-o", str(tmp_path / "out"), *words])  # nothing to make
    load(SOURCE.replace("2 * values", "3 * values"))
    with pytest.raises(SystemExit):
        main(["compare", "-c", recipe, "-o", str(tmp_path / "out"), *words])
    assert "of 'mine' with seed 0 was made with other code of my_own.Part. Give" in capsys.readouterr().err
    del registry._KINDS["mine"]
    contagg.register_affinity("mine", lambda site: DepthwiseConv(site.channels, 3))
    with pytest.raises(SystemExit):
        main(["compare", "-c", recipe, "-o", str(tmp_path / "out"), *words])
    assert "was made with other code of my_own.Mine. Give" in capsys.readouterr().err


def test_a_run_does_not_go_on_with_other_code(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    _check_code(folder, {"my_own.Mine": "1"}, resumed=False)
    _check_code(folder, {"my_own.Mine": "1"}, resumed=True)
    with pytest.raises(UserError, match="was begun with other code of its mixers: remove it"):
        _check_code(folder, {"my_own.Mine": "2"}, resumed=True)
    _check_code(folder, {"my_own.Mine": "2"}, resumed=False)
