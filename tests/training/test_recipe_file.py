"""A recipe becomes a checked dataclass; what is wrong with it is one line, at once, without torch."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from fit_processes import TINY

from contagg.classification.recipe import ClassificationRecipe
from contagg.config import as_dict
from contagg.errors import UserError
from contagg.tasks import recipes
from contagg.training.recipe_file import read_recipe

CONTAGG = Path(sys.executable).parent / "contagg"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(TINY | {"run": {"folder": "runs/tiny"}}))
    return path


def read(path: Path, *options: str) -> ClassificationRecipe:
    return read_recipe(["-c", str(path), *options], recipes())


def test_command_line_overrides_the_file_which_overrides_defaults(recipe: Path) -> None:
    read_one = read(recipe, "--optimization.epochs", "5", "--model.options.affinity=dwconv3", "--run.seed=7")
    assert read_one.optimization.epochs == 5
    assert read_one.optimization.batch_size == TINY["optimization"]["batch_size"]
    assert read_one.optimization.weight_decay == 0.05
    assert read_one.model.options == TINY["model"]["options"] | {"affinity": "dwconv3"}
    assert read_one.run.seed == 7


def test_numbers_in_any_notation_and_null(recipe: Path) -> None:
    content = yaml.safe_load(recipe.read_text())
    text = yaml.safe_dump(content).replace("lr: 0.003", "lr: 3e-3")
    recipe.write_text(text + "label_smoothing: 1e-1\n")
    assert read(recipe).optimization.lr == 0.003
    assert read(recipe, "--optimization.lr_batch_size", "null").optimization.lr_batch_size is None
    assert read(recipe, "--augmentation.auto_augment", "null").augmentation.auto_augment is None


def test_what_is_printed_reads_back_the_same(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leave:
        read(recipe, "--print_config", "--data.fraction", "0.5")
    assert leave.value.code == 0
    printed = recipe.with_name("printed.yaml")
    printed.write_text(capsys.readouterr().out)
    assert read(printed) == read(recipe, "--data.fraction", "0.5")
    assert as_dict(read(printed)) == yaml.safe_load(printed.read_text())


def test_help_explains_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leave:
        read_recipe(["--help"], recipes())
    assert leave.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--optimization.lr LR The peak learning rate, for a step of lr_batch_size images. (type: float" in text


OPTIONS = [
    ("--optimization.epoch 3", "unknown option --optimization.epoch. Did you mean 'optimization.epochs'?"),
    ("--task clasification", "unknown task 'clasification'. Did you mean 'classification'? (known: classification"),
    ("--optimization.epochs many", "optimization.epochs must be a whole number, not 'many'"),
    ("--optimization.lr fast", "optimization.lr must be a number, not 'fast'"),
    ("--optimization.max_grad_norm x", "optimization.max_grad_norm must be a number or null, not 'x'"),
    ("--optimization.betas [0.9]", "optimization.betas must be [a number, a number], not '[0.9]'"),
    ("--run.precision fp8", "run.precision must be one of fp32, bf16, fp16, not 'fp8'"),
    ("--run.compile perhaps", "run.compile must be true or false, not 'perhaps'"),
    ("--optimization.batch_size 0", "optimization.batch_size must be at least 1, not 0"),
    ("--optimization.batch_size 7", "optimization.batch_size 7 is odd, but augmentation.mixup and cutmix pair"),
    ("--optimization.weight_decay -1", "optimization.weight_decay must be at least 0, not -1.0"),
    ("--optimization.warmup_epochs 3", "optimization.warmup_epochs (3) must be below optimization.epochs (3)"),
    ("--optimization.ema_decay 1", "optimization.ema_decay must lie in (0, 1), not 1.0"),
    ("--optimization.average_decay 1", "unknown option --optimization.average_decay. It is now optimization.ema_decay"),
    ("--optimization.betas [0.9,1]", "optimization.betas must lie in [0, 1), not [0.9, 1.0]"),
    ("--label_smoothing 1", "label_smoothing must lie in [0, 1), not 1.0"),
    ("--model.drop_path 1", "model.drop_path must lie in [0, 1), not 1.0"),
    ("--model.channels 4", "model.channels must be one of 1, 3, not '4'"),
    ("--model.options.img_size 32", "model.options.img_size: use model.image_size"),
    ("--augmentation.auto_augment rond-m9", "augmentation.auto_augment: unknown policy 'rond-m9'"),
    ("--run.accelerator cpu --run.precision fp16", "run.precision fp16 needs a GPU: take bf16 or fp32 on the CPU"),
    ("--run.accelerator cpu --run.synchronize_batchnorm true", "run.synchronize_batchnorm needs GPUs"),
    ("--run.keep_last 0", "run.keep_last must be at least 1, not 0"),
    ("--run.seed 9223372036854775808", "run.seed must lie in [0, 9.22337e+18], not 9223372036854775808"),
    ("--run.workers -1", "run.workers must be at least 0, not -1"),
    ("--data.name digitz", "data.name: unknown data set 'digitz'. Did you mean 'digits'?"),
    ("--optimization.epochs 1:30", "optimization.epochs must be a whole number, not '1:30'"),
    ("--optimization.betas [0.9,1:30]", "optimization.betas must be [a number, a number], not '[0.9,1:30]'"),
    ("--optimization.epochs={a:&a[*a]}", "optimization.epochs must be a whole number, not '{a:&a[*a]}'"),
    ("--model.options [[" + "[" * 900 + "]" * 900 + "]]", "model.options must be keys and values, not '[["),
    ("--model.options={a:&a[*a]}", "model.options must be keys and values, not '{a:&a[*a]}'"),
    ("stray", "unrecognized arguments: stray"),
    ("--optimization.epochs", "expected one argument"),
]


@pytest.mark.parametrize(("options", "message"), OPTIONS, ids=[options for options, _ in OPTIONS])
def test_bad_option(recipe: Path, options: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        read(recipe, *options.split())
    assert message in str(error.value)
    assert "\n" not in str(error.value)


FILES = [
    ("task: classification\noptimizatio: {}\n", "unknown key optimizatio. Did you mean 'optimization'?"),
    ("task: classification\nrun: {folders: x}\n", "unknown key run.folders. Did you mean 'folder'?"),
    ("task: classification\nrun: fast\n", "run must hold keys and values, not 'fast'"),
    ("task: classification\nmodel: {name: a}\n", "run.folder"),
    ("task: classification\nrun: {folder: a}\n", "model.name"),
    ("task: clasification\n", "unknown task 'clasification'"),
    ("task: [classification]\n", "unknown task ['classification']. Did you mean 'classification'?"),
    ("model: {name: a}\n", "names no task"),
    ("model: [a\n", "is not readable YAML"),
    ("- a\n- b\n", "holds no recipe"),
    ("", "holds no recipe"),
    ("task: classification\noptimization: {epochs: 2.5}\n", "optimization.epochs must be a whole number, not '2.5'"),
]


LAUGHS = "{x0: &x0 [1,1,1,1,1,1,1,1,1], " + ", ".join(
    f"x{n}: &x{n} [{','.join([f'*x{n - 1}'] * 9)}]" for n in range(1, 9)
)  # fmt: skip
BASE = "task: classification\nmodel: {name: a}\nrun: {folder: a}\n"
FILES += [
    (BASE.replace("a}\nr", f"a, options: '{LAUGHS}}}'}}\nr"), "model.options must be keys and values, not '{x0: &x0"),
    (BASE.replace("a}\nr", "a, options: '{a: &a [*a]}'}\nr"), "model.options must be keys and values, not '{a: &a"),
    (BASE.replace("a}\nr", "a, options: '{a: 1}'}\nr"), "model.options must be keys and values, not '{a: 1}'"),
    (BASE + "optimization: {betas: '[0.9, 0.9]'}\n", "optimization.betas must be [a number, a number], not '[0.9, 0"),
    (BASE + f"optimization: {{epochs: '{LAUGHS}}}'}}\n", "optimization.epochs must be a whole number, not '{x0: &x0"),
    (BASE + "optimization: {epochs: 1:30}\n", "optimization.epochs must be a whole number, not '1:30'"),
    (BASE + "optimization: {epochs: 3}\noptimization: {lr: 1}\n", "the key 'optimization' stands twice"),
    (BASE.replace("folder: a", "folder: [a]"), "run.folder must be text, not ['a']"),
    (BASE.replace("folder: a", "folder: null"), "run.folder must be text, not null"),
]


@pytest.mark.parametrize(("text", "message"), FILES, ids=[message for _, message in FILES])
def test_bad_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["yes", "on", "1:30", "'2024'", "007", "'a: b'", "'*a'", "'[a'", "'&a [*a]'"])
def test_a_folder_is_named_as_it_is_written(recipe: Path, name: str) -> None:
    recipe.write_text(recipe.read_text().replace("runs/tiny", name))
    assert read(recipe).run.folder == name.strip("'")
    assert read(recipe, f"--run.folder={name.strip(chr(39))}").run.folder == name.strip("'")


def test_missing_file_names_a_near_one(recipe: Path) -> None:
    with pytest.raises(UserError, match=r"there is no recipe .*recip.yaml. Did you mean 'recipe.yaml'\?"):
        read(recipe.with_name("recip.yaml"))


def test_the_command_answers_with_one_line_and_2_before_torch(recipe: Path) -> None:
    command = [sys.executable, "-X", "importtime", str(CONTAGG), "fit", "-c", str(recipe), "--run.seeds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stderr.splitlines()
    assert done.returncode == 2
    assert [line for line in lines if "import time" not in line] == [
        "contagg: error: unknown option --run.seeds. Did you mean 'run.seed'?"
    ]
    assert not any(line.split("|")[-1].strip() in ("torch", "timm", "numpy") for line in lines)


def test_a_section_of_another_name_is_named_with_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "detr.yaml"
    path.write_text("task: detection\nmodel: {detector: detr}\n")
    with pytest.raises(UserError, match=r"unknown option --model\.sets\.queries\. It is now model\.detr\.queries"):
        read_recipe(["-c", str(path), "--model.sets.queries", "3"], recipes())
    path.write_text("task: detection\nmodel: {detector: detr, sets: {queries: 3}}\n")
    with pytest.raises(UserError, match=r"unknown key model\.sets\. It is now model\.detr$"):
        read_recipe(["-c", str(path)], recipes())
