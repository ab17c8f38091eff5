"""The command line: every command is there, and what is wrong is one line and exit code 2."""

import argparse
import importlib

import pytest

from contagg.cli import COMMANDS, FIT, TASKS, main
from contagg.training.signals import StoppedError


def load(reference: str) -> object:
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_functions_and_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = COMMANDS[name]
    assert callable(load(command.run))
    if command.arguments:
        load(command.arguments)(argparse.ArgumentParser())
    with pytest.raises(SystemExit) as leave:
        main([name, "--help"])
    assert leave.value.code == 0
    assert command.help in " ".join(capsys.readouterr().out.split())


def test_every_task_has_a_recipe_and_a_training() -> None:
    assert TASKS.keys() == FIT.keys()
    for task, recipe in TASKS.items():
        assert load(recipe).__dataclass_fields__["task"]
        assert callable(load(FIT[task]))


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in ("fit", *COMMANDS))


BAD = [
    (["predcit"], "unknown command 'predcit'. Did you mean 'predict'?"),
    (["predict", "a", "b", "--topk", "3"], "unrecognized arguments: --topk 3. Did you mean '--top-k'?"),
    (["predict", "a", "b", "--top-k", "0"], "'0' is not a whole number above 0"),
    (["predict", "a", "b", "--output", "xml"], "invalid choice: 'xml'"),
    (["predict", "a", "b", "--workers", "-1"], "'-1' is not a whole number from 0"),
    (["validate", "runs/absent"], "no weights at 'runs/absent'; a run folder or a weights file of a run was expected"),
    (["curves"], "the following arguments are required: runs"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as leave:
        main(arguments)
    assert leave.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("contagg: error: ")
    assert message in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize("words", [["validate", "run"], ["predict", "run", "image"], ["knn", "run"]])
def test_fewer_workers_than_none(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leave:
        main([*words, "--workers", "-1"])
    assert leave.value.code == 2
    assert "--workers: '-1' is not a whole number from 0" in capsys.readouterr().err


@pytest.mark.parametrize(("rank", "code", "speaks"), [("0", 143, True), ("1", 0, False)])
def test_stopped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rank: str, code: int, speaks: bool
) -> None:
    def stopped(*_: object) -> None:
        raise StoppedError(15, "saved")

    monkeypatch.setattr("contagg.cli._dispatch", stopped)
    monkeypatch.setenv("LOCAL_RANK", rank)
    with pytest.raises(SystemExit) as leave:
        main(["fit"])
    assert leave.value.code == code
    assert ("saved" in capsys.readouterr().err) == speaks
