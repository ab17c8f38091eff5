"""Three commands' CPU seconds as a row a seed."""

import json
import sys
from pathlib import Path

import pytest

from contagg.errors import UserError
from tools import search_price

PYTHON = sys.executable
BURN = "import sys, time, pathlib\nn = {'fit': 0.3, 'place': 0.6}[sys.argv[3]]\n"
BURN += "while time.process_time() < n: pass\npathlib.Path('log').open('a').write(' '.join(sys.argv[3:]) + '\\n')\n"


@pytest.fixture
def burning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Instead of Python a program that burns so much CPU time."""
    program = tmp_path / "python"
    program.write_text(f"#!{PYTHON}\n{BURN}")
    program.chmod(0o755)
    monkeypatch.setattr(search_price.sys, "executable", str(program))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_row_a_seed_and_none_twice(burning: Path) -> None:
    words = ["rows.json", "--runs", "runs", "--budget", "0.5", "--seeds", "3", "4", "--", "-c", "toy"]
    search_price.main(words)
    rows = json.loads((burning / "rows.json").read_text())
    assert [row["seed"] for row in rows] == [3, 4]
    for row in rows:
        assert 0.3 <= row["fit"] < 0.55 <= row["place"], "each command's own time, to a tenth of a second"
        assert 0.3 <= row["chosen"] < 0.55
    commands = (burning / "log").read_text().splitlines()
    assert commands[:3] == [
        "fit -c toy --run.seed 3 --run.folder runs/open_3",
        "place -c toy --run.seed 3 --run.folder runs/learnt_0.5_3 --budget 0.5",
        "fit -c runs/learnt_0.5_3/placed.yaml --run.folder runs/chosen_0.5_3",
    ]
    search_price.main(words)
    assert (burning / "log").read_text().splitlines() == commands


def test_a_part_that_a_row_lacks_is_added(burning: Path) -> None:
    (burning / "rows.json").write_text(json.dumps([{"seed": 3, "budget": "0.5", "fit": 7.0, "place": 8.0}]))
    search_price.main(["rows.json", "--runs", "runs", "--budget", "0.5", "--seeds", "3", "--", "-c", "toy"])
    (row,) = json.loads((burning / "rows.json").read_text())
    assert (row["fit"], row["place"]) == (7.0, 8.0) and row["chosen"] < 0.55
    assert len((burning / "log").read_text().splitlines()) == 1


def test_a_failed_run_leaves_no_row(burning: Path) -> None:
    (burning / "python").write_text(f"#!{PYTHON}\nraise SystemExit(3)\n")
    with pytest.raises(UserError, match=r"contagg fit -c toy .* ended with 3"):
        search_price.main(["rows.json", "--runs", "runs", "--budget", "0.5", "--seeds", "3", "--", "-c", "toy"])
    assert not (burning / "rows.json").exists()
