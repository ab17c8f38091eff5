"""runs.json: what is a row, what may be added, and that a stranger's file is one clear line."""

import json
import math
import multiprocessing
from collections.abc import Callable
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
    assert file.of_arms(arms.arms, {"none": DATA}, {}) == {("none", row["seed"]): row for row in file.rows()}
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
    "'rows' of the file is missing, or of another": '{"format": 1, "recipe": {}, "data": {}, "costs": {}, "rows": {}}',
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


COSTS = {
    "about": {"device": "a processor", "threads": 1, "batch": 64, "precision": "fp32"},
    "arms": {"none": {"changes": "0", "inference_ms": 1, "train_ms": 2.5, "inference_mb": 3.0, "train_mb": 4.0}},
}
DAMAGED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "'seconds' of row 1": lambda known: known["rows"][0].update(seconds="5 s"),
    "'monitor' of row 1": lambda known: known["rows"][0].update(monitor=5),
    "'parameters' of row 1": lambda known: known["rows"][0].update(parameters="many"),
    "'seed' of row 1": lambda known: known["rows"][0].update(seed=True),
    "'class_names' of data": lambda known: known["data"].update(other={"class_names": 3, "splits": {}}),
    "'splits' of data": lambda known: known["data"].update(other={"class_names": []}),
    "'counts' of the test images": lambda known: next(iter(known["data"].values()))["splits"].update(test=["1"]),
    "'about' of costs": lambda known: known["costs"].pop("about"),
    "'arms' of costs": lambda known: known["costs"].update(arms=[]),
    "'threads' of costs": lambda known: known["costs"]["about"].pop("threads"),
    "'train_ms' of costs of 'none'": lambda known: known["costs"]["arms"]["none"].update(train_ms="fast"),
    "'train_mb' of costs of 'none'": lambda known: known["costs"]["arms"]["none"].pop("train_mb"),
}


@pytest.mark.parametrize("part", DAMAGED)
def test_whatever_is_read_later_is_of_its_kind(part: str, arms: Arms, tmp_path: Path) -> None:
    known = json.loads(json.dumps(content(arms, tmp_path) | {"costs": COSTS}))
    (tmp_path / "runs.json").write_text(json.dumps(known))
    RunsFile(tmp_path, arms.recipe)
    DAMAGED[part](known)
    (tmp_path / "runs.json").write_text(json.dumps(known))
    with pytest.raises(UserError, match=part):
        RunsFile(tmp_path, arms.recipe)


def test_an_infinite_loss_is_a_row(arms: Arms, tmp_path: Path) -> None:
    file = RunsFile(tmp_path, arms.recipe)
    file.add(row(metrics={"epoch": [1], "validation_loss": [math.inf]}), DATA)
    assert file.rows()[0]["metrics"]["validation_loss"] == [math.inf]


def test_of_two_rows_of_a_run_the_first_counts(arms: Arms, tmp_path: Path) -> None:
    """Also where files of two machines were put together by hand."""
    known = content(arms, tmp_path)
    known["rows"].append(row(seconds=7.0))
    (tmp_path / "runs.json").write_text(json.dumps(known))
    found = RunsFile(tmp_path, arms.recipe).of_arms(arms.arms, {}, {})
    assert "seconds" not in found["none", 0]


@pytest.mark.parametrize("taken", ["runs", ".runs.lock/", "../out"])
def test_a_folder_that_takes_nothing_is_refused(taken: str, arms: Arms, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    if taken != "../out":
        folder.mkdir()
    where = folder / taken
    where.mkdir() if taken.endswith("/") else where.resolve().touch()
    with pytest.raises(UserError, match=r"-o .*out cannot be used: .*out.*: "):
        RunsFile(folder, arms.recipe).prepare()


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
