"""runs.json: what is a row, what may be added, and that a stranger's file is one clear line."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from laboratory import written

from contagg.errors import UserError
from contagg.lab.arms import Arms, read_arms
from contagg.lab.rows import RunsFile, as_text, digest

DATA = {
    "class_names": ["a", "b"],
    "splits": {"training": {"names": "1", "labels": "2", "contents": "3", "counts": [4, 5]}},
}


def row(arm: str = "none", seed: int = 0, **values: Any) -> dict[str, Any]:
    metrics = {"epoch": [1, 2], "accuracy": [0.25, 0.5]}
    return {"arm": arm, "seed": seed, "changes": {}, "data": digest(DATA), "metrics": metrics} | values


@pytest.fixture
def arms(tmp_path: Path) -> Arms:
    return read_arms(["-c", written(tmp_path)], [("arm", ["none"])])


def content(arms: Arms, tmp_path: Path) -> dict[str, Any]:
    file = RunsFile(tmp_path, arms.recipe)
    file.add(row(), DATA)
    return json.loads(file.path.read_text())


def test_a_row_is_added_once(arms: Arms, tmp_path: Path) -> None:
    file = RunsFile(tmp_path, arms.recipe)
    file.add(row(seconds=1.0), DATA)
    file.add(row(seconds=2.0), DATA)
    file.add(row(seed=1), DATA)
    assert [(row["seed"], row.get("seconds")) for row in file.rows()] == [(0, 1.0), (1, None)]
    assert file.of_arms(arms.arms, {"none": DATA}) == {("none", row["seed"]): row for row in file.rows()}
    text = file.path.read_text()
    assert sum('"arm"' in line for line in text.splitlines()) == 2 and as_text(json.loads(text)) == text


def _add(folder: Path, recipe: Any, seeds: range) -> None:
    for seed in seeds:
        RunsFile(folder, recipe).add(row(seed=seed), DATA)


def test_processes_add_beside_each_other(arms: Arms, tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    each = [fork.Process(target=_add, args=(tmp_path, arms.recipe, range(n, 40, 4))) for n in range(4)]
    for process in each:
        process.start()
    for process in each:
        process.join()
    assert sorted(row["seed"] for row in RunsFile(tmp_path, arms.recipe).rows()) == list(range(40))


def test_a_key_that_came_later_had_its_default(arms: Arms, tmp_path: Path) -> None:
    """And one that the file has and the recipe has not is another recipe."""
    known = content(arms, tmp_path)
    del known["recipe"]["augmentation.repeats"]
    (tmp_path / "runs.json").write_text(json.dumps(known))
    assert len(RunsFile(tmp_path, arms.recipe).rows()) == 1
    known["recipe"]["augmentation.horizontal_flip"] = 0.25
    known["recipe"]["gone"] = 1
    (tmp_path / "runs.json").write_text(json.dumps(known))
    with pytest.raises(
        UserError, match=r"augmentation.horizontal_flip is 0.25 there and 0.5 here; gone is 1 there and abs"
    ):
        RunsFile(tmp_path, arms.recipe)


BROKEN = {
    "is no file of contagg compare: Expecting": "{",
    "is no file of contagg compare of format 1": '{"format": 2}',
    "'rows' is missing in it, or of another kind": '{"format": 1, "recipe": {}, "data": {}, "costs": {}, "rows": {}}',
    "of format 1": "[1, 2]",
    "is no file of contagg compare: maximum recursion": "[" * 100_000,
}


@pytest.mark.parametrize("line", BROKEN)
def test_what_is_no_such_file(line: str, arms: Arms, tmp_path: Path) -> None:
    (tmp_path / "runs.json").write_text(BROKEN[line])
    with pytest.raises(UserError, match=r"runs\.json") as refused:
        RunsFile(tmp_path, arms.recipe)
    assert line in str(refused.value)


ODD_ROWS = [
    3,
    {},
    row() | {"metrics": {}},
    row() | {"metrics": {"accuracy": [0.5]}},
    row() | {"metrics": {"epoch": [], "accuracy": []}},
    row() | {"metrics": {"epoch": [1], "accuracy": [0.5, 0.6]}},
    row() | {"metrics": {"epoch": [1], "accuracy": ["high"]}},
    row() | {"metrics": {"epoch": [1], "accuracy": [True]}},
    row() | {"metrics": {"epoch": [None], "accuracy": [0.5]}},
    row() | {"seed": "0"},
    row() | {"arm": ["none"]},
    row() | {"changes": [1]},
]


@pytest.mark.parametrize("odd", ODD_ROWS, ids=range(len(ODD_ROWS)))
def test_what_is_no_row(odd: Any, arms: Arms, tmp_path: Path) -> None:
    known = content(arms, tmp_path)
    known["rows"].append(odd)
    (tmp_path / "runs.json").write_text(json.dumps(known))
    with pytest.raises(UserError, match="row 2 is missing, or of another kind"):
        RunsFile(tmp_path, arms.recipe)


def test_what_is_printed_of_a_strangers_file_is_harmless(arms: Arms, tmp_path: Path) -> None:
    known = content(arms, tmp_path)
    known["recipe"]["\x1b[31m" + "k" * 10_000] = "\x1b[2J"
    (tmp_path / "runs.json").write_text(json.dumps(known))
    with pytest.raises(UserError) as refused:
        RunsFile(tmp_path, arms.recipe)
    assert str(refused.value).isprintable() and len(str(refused.value)) <= 500


def test_a_pipe_is_not_waited_for(arms: Arms, tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "runs.json")
    with pytest.raises(UserError, match="no regular file"):
        RunsFile(tmp_path, arms.recipe)
