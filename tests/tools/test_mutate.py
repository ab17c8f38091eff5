"""The list of changes fits the code, and the tool tells what the tests noticed from what they did not."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools.mutate import ROOT, read_mutants, stale


def test_every_change_fits_the_code_and_its_tests() -> None:
    mutants = read_mutants()
    assert not stale(mutants)
    assert len(mutants) >= 100 and {m.room for m in mutants} >= {"affinity", "nn", "training", "detection", "data"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"old": "no such text"}, "its old text occurs 0 times in files.py"),
        ({"old": "os."}, "its old text occurs"),
        ({"file": "gone.py"}, "occurs 0 times in gone.py"),
        ({"tests": ("tests/test_files.py::test_gone",)}, "there is no test tests/test_files.py::test_gone"),
        ({"tests": ("tests/test_gone.py",)}, "there is no test tests/test_gone.py"),
        ({"tests": ()}, "names no test"),
        ({"new": "os.fsync(folder)"}, "changes nothing"),
    ],
)
def test_stale_entries_are_told(changed: dict, message: str) -> None:
    flush = next(m for m in read_mutants() if m.old == "os.fsync(folder)")
    (line,) = stale([dataclasses.replace(flush, **changed)])
    assert message in line


def test_names_are_told_apart() -> None:
    assert "is the name of 2" in stale([read_mutants()[0]] * 2)[0]


PROJECT = {
    "src/contagg/__init__.py": "",
    "src/contagg/sums.py": "def total(a, b):\n    return a + b\n\n\ndef spare(a):\n    return a\n",
    "tests/test_sums.py": "from contagg.sums import total\n\n\ndef test_total():\n    assert total(2, 3) == 5\n",
    "tests/test_wrong.py": "import contagg\n\n\ndef test_wrong():\n    assert not contagg\n",
    "tools/__init__.py": "",
    "tools/mutants/all.toml": """
tests = ["tests/test_sums.py"]
[[mutant]]
name = "difference"
file = "sums.py"
old = "a + b"
new = "a - b"
[[mutant]]
name = "unseen"
file = "sums.py"
old = "    return a\\n"
new = "    return 0\\n"
[[mutant]]
name = "no Python"
file = "sums.py"
old = "a + b"
new = "a +"
[[mutant]]
name = "endless"
file = "sums.py"
old = "    return a + b"
new = "    while True: pass"
[[mutant]]
name = "wrong already"
file = "sums.py"
old = "a + b"
new = "b + a"
tests = ["tests/test_wrong.py"]
[[mutant]]
name = "the same"
file = "sums.py"
old = "a + b"
new = "b + a"
equivalent = "a sum has no order"
""",
}


def test_what_the_tests_notice_is_told_and_kept(tmp_path: Path) -> None:
    for name, content in PROJECT.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "tools/mutate.py").write_text(
        (ROOT / "tools/mutate.py").read_text().replace('"pytest", "torch"', '"pytest",) or ("torch"')
    )

    def run(*options: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "tools.mutate", "--seconds", "2", *options]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)

    first = run()
    assert first.returncode == 1 and "2 of 5 killed" in first.stdout, first
    rows = {row["name"]: row for row in json.loads((tmp_path / "results/mutate/all.json").read_text())["mutants"]}
    answers = {name: row["answer"] for name, row in rows.items()}
    assert answers == {
        "difference": "killed", "unseen": "survived", "no Python": "broken", "endless": "killed",
        "wrong already": "broken", "the same": "equivalent",
    }  # fmt: skip
    assert rows["difference"]["by"] == "tests/test_sums.py::test_total" and rows["endless"]["by"] == "timeout"
    assert (tmp_path / "src/contagg/sums.py").read_text() == PROJECT["src/contagg/sums.py"]
    (tmp_path / "tests/test_sums.py").write_text(
        "from contagg.sums import spare, total\n\n\ndef test_total():\n    assert total(2, spare(3)) == 5\n"
    )
    again = run("--only", "unseen|the same")
    assert again.returncode == 0 and again.stdout.endswith("1 of 1 killed (100.0%); {'equivalent': 1, 'killed': 1}\n")
    assert run("--only", "unseen").stdout == "1 of 1 killed (100.0%); {'killed': 1}\n"
