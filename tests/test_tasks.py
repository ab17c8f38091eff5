"""A task is one package and one entry: a third one trains, validates and predicts through the command line."""

import re
from pathlib import Path

import pytest
import yaml

from contagg.arguments import load
from contagg.cli import main
from contagg.names import unknown_model
from contagg.tasks import BUILT_IN, describe_keys, tasks


def install(folder: Path, entry: str) -> None:
    """As pip leaves a distribution with an entry point."""
    information = folder / "toy-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1\n")
    (information / "entry_points.txt").write_text(f"[contagg.tasks]\n{entry}\n")


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "mean = toy_task:TASK")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "toy"))


def fail(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as leave:
        main(list(arguments))
    assert leave.value.code == 2
    return capsys.readouterr().err


def test_fit_validate_predict(toy: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, out = tmp_path / "mean.yaml", str(tmp_path / "mean.safetensors")
    recipe.write_text(yaml.safe_dump({"task": "mean", "model": {"numbers": [1, 2, 6]}, "out": out}))
    main(["fit", "-c", str(recipe)])
    main(["validate", out])
    main(["predict", out, "3.5"])
    assert capsys.readouterr().out == "the mean is 3.00\n3.5 differs by 0.50\n"
    assert "invalid float value: 'x'" in fail(capsys, "predict", out, "x")
    assert "unknown option --model.number. Did you mean 'model.numbers'?" in fail(
        capsys, "fit", "-c", str(recipe), "--model.number", "3"
    )


def test_networks_that_its_package_registers_are_not_refused_early(toy: None) -> None:
    assert unknown_model("its_own_network") is None
    assert unknown_model("hf-hub:its/own") is not None


def test_help_knows_it(toy: None, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    main(["fit", "--task", "mean", "--help"])
    printed = capsys.readouterr().out
    assert "say the mean" in printed and "learn a mean" in printed
    assert "--model.numbers = [1.0, 2.0]  One or more." in printed


def test_a_file_of_a_task_that_lacks_the_command_or_is_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from contagg.checkpoints.weights import save_weights

    for task in ("dino", "mean"):
        save_weights(tmp_path / f"{task}.safetensors", {"a": torch.zeros(1)}, {"task": task})
    printed = fail(capsys, "validate", str(tmp_path / "dino.safetensors"))
    assert "these are weights of the task 'dino', which has no 'validate'; it has contagg knn" in printed
    printed = fail(capsys, "validate", str(tmp_path / "mean.safetensors"))
    assert "unknown task 'mean'" in printed and "classification, detection, dino" in printed


BROKEN = {
    "mean = toy_missing:TASK": r"the task 'mean' \(toy_missing:TASK\) cannot be loaded: ModuleNotFoundError",
    "mean = json:dumps": r"the task 'mean' \(json:dumps\) must be a contagg.tasks.Task",
    "dino = contagg.classification:TASK": "there are two tasks of the name 'dino'",
}


@pytest.mark.parametrize("entry", BROKEN)
def test_broken_entries(
    entry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tasks().keys() == BUILT_IN.keys()
    install(tmp_path, entry)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert tasks().keys() == BUILT_IN.keys()  # the others stay
    assert re.search(BROKEN[entry], capsys.readouterr().err)


def test_help_shows_the_defaults_of_the_task() -> None:
    """A task sets its own for a whole section of its recipe."""
    shown = {
        name: {key: default for key, default, _ in describe_keys(load(task.recipe))} for name, task in tasks().items()
    }
    epochs = {name: keys["optimization.epochs"] for name, keys in shown.items()}
    assert epochs == {"classification": "300", "detection": "12", "dino": "100"}
    assert shown["detection"]["optimization.milestones"] == "[8, 11]" and shown["dino"]["model.name"] == "required"
