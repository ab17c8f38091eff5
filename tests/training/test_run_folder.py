"""A run folder belongs to one recipe and to one process at a time."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from contagg.checkpoints.locate import weights_in
from contagg.classification.recipe import ClassificationRecipe
from contagg.errors import UserError
from contagg.training.config import ModelConfig, OptimizationConfig, RunConfig
from contagg.training.run_folder import RunFolder, is_first_process


def recipe_in(folder: Path, **changes: object) -> ClassificationRecipe:
    run = RunConfig(folder=str(folder), devices=2)
    model = ModelConfig(name="container_light_tiny", options={"embed_dims": [8, 8, 8, 8]})
    recipe = ClassificationRecipe(task="classification", model=model, run=run)
    return replace(recipe, **changes)


def trained(folder: Path) -> ClassificationRecipe:
    """The recipe of a folder in which an epoch was trained."""
    recipe = recipe_in(folder)
    RunFolder(folder).claim(recipe)
    RunFolder(folder).metrics.write_text("epoch\n1\n")
    return recipe


def test_the_whole_recipe_is_written(tmp_path: Path) -> None:
    recipe = trained(tmp_path / "run")
    written = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert written["optimization"]["weight_decay"] == 0.05
    assert written["model"]["options"] == {"embed_dims": [8, 8, 8, 8]}
    RunFolder(tmp_path / "run").claim(recipe)


def test_another_recipe_is_refused_and_what_differs_is_named(tmp_path: Path) -> None:
    recipe = trained(tmp_path)
    other = replace(recipe, optimization=OptimizationConfig(epochs=50), model=ModelConfig(name="container_tiny"))
    with pytest.raises(UserError) as error:
        RunFolder(tmp_path).claim(other)
    assert "optimization.epochs is 300 there and 50 here" in str(error.value)
    assert "model.name is container_light_tiny there and container_tiny here" in str(error.value)
    assert "model.options.embed_dims is [8, 8, 8, 8] there and absent here" in str(error.value)
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text())["optimization"]["epochs"] == 300


@pytest.mark.parametrize("name", [".lock", "recipe.yaml"])
def test_a_pipe_in_the_folder_is_no_file(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    (tmp_path / "metrics.csv").write_text("epoch\n1\n")
    with pytest.raises(UserError, match=rf"{name} is no (plain )?file"):
        RunFolder(tmp_path).claim(recipe_in(tmp_path))


def test_before_anything_was_trained_the_recipe_may_change(tmp_path: Path) -> None:
    RunFolder(tmp_path).claim(recipe_in(tmp_path))
    RunFolder(tmp_path).claim(recipe_in(tmp_path, label_smoothing=0.2))
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text())["label_smoothing"] == 0.2


def test_weights_that_nothing_was_trained_for_are_a_run_too(tmp_path: Path) -> None:
    """`contagg place --from` leaves neither training states nor metrics."""
    RunFolder(tmp_path).claim(recipe_in(tmp_path))
    (tmp_path / "checkpoints" / "best.safetensors").touch()
    RunFolder(tmp_path).claim(recipe_in(tmp_path))
    with pytest.raises(UserError, match=r"label_smoothing is 0\.1 there and 0\.2 here"):
        RunFolder(tmp_path).claim(recipe_in(tmp_path, label_smoothing=0.2))


def test_what_does_not_touch_the_numbers_may_change(tmp_path: Path) -> None:
    recipe = trained(tmp_path)
    RunFolder(tmp_path).claim(replace(recipe, run=replace(recipe.run, workers=9, keep_last=5, resume="must")))
    with pytest.raises(UserError, match=r"run\.seed is 0 there and 1 here"):
        RunFolder(tmp_path).claim(replace(recipe, run=replace(recipe.run, seed=1)))


def test_a_key_that_is_younger_than_the_run_counts_as_its_default(tmp_path: Path) -> None:
    recipe = trained(tmp_path)
    old = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    del old["optimization"]["max_grad_norm"], old["run"]["compile"], old["label_smoothing"], old["data"]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(old))
    clipped = replace(recipe, optimization=replace(recipe.optimization, max_grad_norm=1.0))
    with pytest.raises(UserError, match=r"recipe: optimization\.max_grad_norm is None there and 1\.0 here\. Give"):
        RunFolder(tmp_path).claim(clipped)
    RunFolder(tmp_path).claim(recipe)
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text())["run"]["compile"] is False


def test_a_required_key_has_no_default_to_count_as(tmp_path: Path) -> None:
    recipe = trained(tmp_path)
    old = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    del old["model"]["name"]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(old))
    with pytest.raises(UserError, match=r"model\.name is absent there and container_light_tiny here"):
        RunFolder(tmp_path).claim(recipe)


def test_a_batch_may_be_spread_over_processes_otherwise(tmp_path: Path) -> None:
    recipe = trained(tmp_path)
    four = replace(recipe.run, devices=4)
    RunFolder(tmp_path).claim(replace(recipe, run=four, optimization=OptimizationConfig(batch_size=64)))
    with pytest.raises(UserError, match="batch_size over all processes is 256 there and 512 here"):
        RunFolder(tmp_path).claim(replace(recipe, run=four))


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.claim(recipe_in(tmp_path))
    code = (
        "import sys; sys.modules['contagg_cli'] = sys\n"
        "from contagg.classification.recipe import ClassificationRecipe\n"
        "from contagg.training.config import ModelConfig, RunConfig\n"
        "from contagg.training.run_folder import RunFolder\n"
        f"run = RunConfig(folder={str(tmp_path)!r})\n"
        "recipe = ClassificationRecipe(task='classification', model=ModelConfig(name='a'), run=run)\n"
        "RunFolder(run.folder).claim(recipe)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "another process is training in" in done.stderr


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"run.folder .*file cannot be used"):
        RunFolder(tmp_path / "file").claim(recipe_in(tmp_path / "file"))


DAMAGED = {
    "a list": (b"- a\n", "holds no recipe"),
    "nothing": (b"", "holds no recipe"),
    "half of it": (b"task: classification\nmodel: {name: conta", "is not readable YAML"),
    "zeros of a disk": (b"\0" * 512, "is not readable YAML"),
    "no text": (b"\xff\xfe\xfa", "is not readable YAML"),
    "a section that is a number": (b"task: classification\noptimization: 3\n", "optimization is 3 there and absent"),
    "a section that is a list": (b"run: [1]\n", "run is [1] there and absent here"),
    "text for numbers": (b"optimization: {batch_size: many}\n", "optimization.batch_size is many there"),
    "null for numbers": (b"run: {devices: null}\n", "run.devices is None there"),
    "a bomb": (b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
        b"b%d: &b%d [%s]\n" % (n, n, b", ".join([b"*b%d" % (n - 1) if n else b"*a"] * 9)) for n in range(9)
    ), "values, aliases counted"),
    "itself within itself": (b"a: &a [*a]\n", "stands within what it stands for"),
    "a tag": (b"task: !!python/name:os.system ''\n", "is not for recipes"),
    "numbered keys": (b"1: 2\n", "keys must be text, not 1"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_recipe_is_one_line(tmp_path: Path, kind: str) -> None:
    recipe = trained(tmp_path)
    content, message = DAMAGED[kind]
    (tmp_path / "recipe.yaml").write_bytes(content)
    with pytest.raises(UserError) as error:
        RunFolder(tmp_path).claim(recipe)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_recipe_that_is_no_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    recipe = trained(tmp_path)
    (tmp_path / "recipe.yaml").unlink()
    make(tmp_path / "recipe.yaml")
    with pytest.raises(UserError, match="Remove it: training states hold the run's recipe"):
        RunFolder(tmp_path).claim(recipe)


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "SLURM_PROCID"])
def test_first_process(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert is_first_process()
    monkeypatch.setenv(name, "0")
    assert is_first_process()
    monkeypatch.setenv(name, "1")
    assert not is_first_process()


def test_a_run_folder_means_its_best_weights(tmp_path: Path) -> None:
    best = tmp_path / "checkpoints" / "best.safetensors"
    best.parent.mkdir()
    best.touch()
    assert weights_in(tmp_path) == weights_in(best) == best
