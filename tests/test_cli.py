"""The command line: every command is there, what is wrong is one line and exit code 2, and a task is one entry."""

import argparse
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from contagg.arguments import Command, load
from contagg.checkpoints.weights import save_weights
from contagg.cli import IN_ORDER, RENAMED, commands, main
from contagg.tasks import BUILT_IN, describe_keys, task_named, tasks
from contagg.training.signals import StoppedError

EVERY = [(name, command) for name, which in commands().items() for command in which.values()]


def fail(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as leave:
        main(list(arguments))
    assert leave.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("contagg: error: ") and printed.count("\n") == 1
    return printed


@pytest.mark.parametrize(("name", "command"), EVERY, ids=[command.run for _, command in EVERY])
def test_every_command_has_its_function_and_help(
    name: str, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(load(command.run))
    if command.arguments:
        command.arguments(argparse.ArgumentParser())
    with pytest.raises(SystemExit) as leave:
        main([*name.split(), "--help"])
    assert leave.value.code == 0
    assert command.help in " ".join(capsys.readouterr().out.split())


def test_every_task_has_a_recipe_and_a_training() -> None:
    assert tasks().keys() == BUILT_IN.keys()
    for name, task in tasks().items():
        assert load(task.recipe).__dataclass_fields__["task"].type
        assert callable(load(task.fit)) and task_named(name) is task


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in ("fit", *commands()))
    listed = [line.split()[0] for line in printed.splitlines() if line.startswith("  ")]
    assert list(dict.fromkeys(listed)) == [name for name in IN_ORDER if name in listed]
    with pytest.raises(SystemExit):
        main(["inspect"])
    printed = capsys.readouterr().out
    assert "inspect queries" in printed and "bench" not in printed


def test_validate_help_shows_what_every_task_takes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["validate", "--help"])
    printed = capsys.readouterr().out
    assert "--data.validation_split" in printed and "--data.annotations" in printed


def test_fit_help_lists_tasks_and_their_keys(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "--help"])
    printed = capsys.readouterr().out
    for name, task in tasks().items():
        assert f"  {name} " in printed and task.help in printed
        keys = list(describe_keys(load(task.recipe)))
        assert all(f"--{key} " in printed and told for key, _, told in keys), [key for key, _, told in keys if not told]
        assert len({told for *_, told in keys}) == len(keys), "each key has a text of its own"
    assert "--optimization.betas = [0.9, 0.999]  " in printed and "--run.folder (required)  The run folder" in printed
    main(["fit", "--task", "dino", "--help"])
    printed = capsys.readouterr().out
    assert "--dino.outputs" in printed and "--label_smoothing" not in printed


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"contagg {importlib.metadata.version('contagg')}\n"


def test_a_checkout_that_is_not_installed_has_no_version(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert "it has no version" in fail(capsys, "--version")


BAD = [
    (
        ["data", "chek"],
        "contagg data is followed by from-voc, from-yolo, from-coco or check, not 'chek'. Did you mean 'check'?",
    ),
    (["export", "container_light", "--to", "onnx"], "It is now contagg export onnx MODEL or contagg export pt2 MODEL."),
    (["predcit"], "unknown command 'predcit'. Did you mean 'predict'?"),
    (["predict", "{here}", "{here}", "--topk", "3"], "unrecognized arguments: --topk 3. Did you mean '--top-k'?"),
    (["predict", "{here}", "{here}", "--top-k", "0"], "'0' is not a whole number above 0"),
    (["predict", "{here}", "{here}", "--output", "xml"], "invalid choice: 'xml'"),
    (["predict", "{here}", "{here}", "--workers", "-1"], "'-1' is not a whole number from 0"),
    (["validate", "runs/absent"], "no weights at 'runs/absent'; a run folder or a weights file of a run was expected"),
    (["predict", "nope", "x.jpg"], "no weights at 'nope'; a run folder or a weights file of a run was expected there"),
    (["predict", "{here}", "x.jpg"], "there is no image or folder x.jpg"),
    (["data", "check", "nowhere"], "there is no folder 'nowhere', and it is none of digits, fashion-mnist"),
    (["validate", "{here}", "--data.root", "nowhere"], "there is no folder 'nowhere'"),
    (["validate", "{here}", "--data.root", "x" * 5000], "there is no folder 'xxx"),
    (["knn", "{here}", "nowhere"], "there is no folder 'nowhere', and it is none of digits, fashion-mnist"),
    (["knn", "{here}", "digits", "--data.root", "~nobody-of-this-name"], "there is no folder '~nobody-of-this-name'"),
    (["knn", "{here}", "--data.name", "digits"], "unrecognized arguments: --data.name digits. See contagg knn --help"),
    (["curves"], "the following arguments are required: runs"),
    (["curves", "runs/absent"], "there is no folder 'runs/absent'"),
    (["bench", "resnet50"], "not 'resnet50'. It is now contagg bench speed MODEL"),
    (["bench", "sped"], "Did you mean 'speed'?"),
    (["bench", "speed", "container_lihgt"], "unknown model 'container_lihgt'. Did you mean 'container_light'?"),
    (
        ["bench", "speed", "resnet18", "--forms", "plain"],
        "It is now contagg bench speed MODEL --variants",
    ),
    (["export", "onnx", "resnet81"], "unknown model 'resnet81'. Did you mean 'resnet18'?"),
    (["inspect", "affinity", "google/vit-base-patch16-224", "x"], "--local-dir FOLDER` and give FOLDER"),
    (["fit", "-c", "{digits}", "--model.name", "container_lihgt"], "model.name: unknown model 'container_lihgt'. Did"),
    (["fit", "-c", "{digits}", "--data.name", "folder", "--data.root", "nowhere"], "data.root nowhere is no folder"),
    (
        ["fit", "-c", "{digits}", "--model.init_weights", "nil.pth"],
        "model.init_weights: no weights at 'nil.pth'",
    ),
    (["fit", "-c", "{coco}", "--model.init_weights", "null", "--model.norm", "train"], "data.root: there is no file"),
    (
        ["fit", "-c", "{digits}", "--model.options.afinity", "x"],
        "container_light_tiny has no argument 'afinity'. Did you",
    ),
    (
        ["fit", "-c", "{digits}", "--model.options", "{{embed_dim: 8}}"],
        "has no argument 'embed_dim'. Did you mean 'embed",
    ),
    (
        ["fit", "-c", "{digits}", "--model.options", "{{affinity: [dwconv5, dwconv5, [pol3, pool3], atention]}}"],
        "model.options: affinity 'pol3': 'pol3' is not a known affinity. Did you mean 'pool3'?",
    ),
    (
        ["fit", "-c", "{digits}", "--model.name", "resnet18", "--model.options", "{{blok: x}}"],
        "resnet18 has no argument",
    ),
    (["validate", "{folder}"], "is no run folder with weights: checkpoints/best.safetensors is missing"),
    (
        ["curves", "{run}", "--metric", "acuracy"],
        "has no metric 'acuracy'. Did you mean 'accuracy'? It has train_loss,",
    ),
    (["curves", "{folder}"], "is no run folder: it has no metrics.csv"),
    (["inspect", "queries", "{run}", "{here}"], "is of the task 'classification': only DETR"),
    *(([old], f"the command {old!r} is now: {new}") for old, new in RENAMED.items()),
]
RECIPES = Path(__file__).parent.parent / "recipes"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What stands in braces above: a file, a folder of nothing, the least run folder, and recipes."""
    run = tmp_path_factory.mktemp("run")
    save_weights(run / "checkpoints" / "best.safetensors", {"x": torch.zeros(1)}, {"task": "classification"})
    (run / "metrics.csv").write_text("epoch,step,train_loss,accuracy\n1,7,0.5,0.25\n")
    return {
        "here": __file__,
        "folder": str(tmp_path_factory.mktemp("folder")),
        "run": str(run),
        "digits": "digits",
        "coco": str(RECIPES / "coco/retinanet_container_light.yaml"),
    }


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input(
    capsys: pytest.CaptureFixture[str], places: dict[str, str], arguments: list[str], message: str
) -> None:
    assert message in fail(capsys, *(word.format(**places) for word in arguments))


EACH = """
import json, sys
import contagg_cli
from contagg.cli import main
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as leave:
        print(leave.code, *{"torch", "timm", "matplotlib"} & sys.modules.keys())
"""


def test_all_of_these_are_said_before_torch_and_timm_are_imported(places: dict[str, str]) -> None:
    every = json.dumps([[word.format(**places) for word in arguments] for arguments, _ in BAD])
    run = subprocess.run([sys.executable, "-c", EACH, every], capture_output=True, text=True)
    assert run.stdout.splitlines() == ["2"] * len(BAD), run.stderr


def test_what_a_network_warns_of_is_one_line() -> None:
    made = "import contagg_cli\nfrom contagg import cli, create\n" + (
        "cli._dispatch = lambda _: create('container_light_tiny', img_size=30)\ncli.main([])\n"
    )
    run = subprocess.run([sys.executable, "-c", made], capture_output=True, text=True)
    said = "contagg: warning: img_size 30 x 30 is no multiple of the stride of 32: zeros fill the last patches\n"
    assert run.stderr == said


def test_python_dash_m_is_the_command_and_as_fast() -> None:
    words = [sys.executable, "-X", "importtime", "-m", "contagg", "predict", "nope", "x.jpg"]
    run = subprocess.run(words, capture_output=True, text=True)
    assert run.returncode == 2 and "contagg: error: contagg predict: argument checkpoint: no weights" in run.stderr
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    assert "contagg.tasks" in imported and not {"torch", "timm"} & imported


def test_the_package_offers_its_names_to_modules_that_a_command_loads() -> None:
    program = "import contagg_cli, contagg; contagg.create('container_light_tiny'); contagg.fuse; contagg.nothing"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stderr.splitlines()[-1] == "AttributeError: module 'contagg' has no attribute 'nothing'"


@pytest.mark.parametrize("words", [["validate"], ["predict"], ["knn"]])
def test_fewer_workers_than_none(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    printed = fail(capsys, *words, __file__, str(Path(__file__).parent), "--workers", "-1")
    assert "--workers: '-1' is not a whole number from 0" in printed


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
