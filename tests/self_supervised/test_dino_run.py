"""Whole runs of DINO on the shared engine: what they leave, and what they keep."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers import DropPath

from contagg.checkpoints.weights import load_model
from contagg.cli import main
from contagg.data.sources import open_data
from contagg.errors import UserError
from contagg.self_supervised import fit
from contagg.self_supervised.fit import make_job
from contagg.self_supervised.task import Dino
from contagg.tasks import recipes
from contagg.training.recipe_file import read_recipe
from contagg.training.saving import SaveState

RECIPES = Path(__file__).parents[2] / "recipes" / "dino"
WriteRecipe = Callable[..., Path]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def state(folder: Path) -> dict[str, Any]:
    return torch.load(max((folder / "checkpoints").glob("*.ckpt")), weights_only=True)


def task_of(path: Path) -> Dino:
    recipe = read_recipe(["-c", str(path)], recipes())
    return make_job(recipe, open_data(recipe.data)).task


def test_a_run_leaves_its_teacher_and_what_it_can_do(
    recipe_file: WriteRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", "-c", str(recipe_file(knn__every=2))])
    run = tmp_path / "run"
    measured = rows(run)
    assert [row["accuracy_knn3"] != "" for row in measured] == [False, True, False]
    assert all(0 <= float(row["train_teacher_entropy"]) <= 3.4658 for row in measured)  # log 32
    assert {path.name for path in (run / "figures").iterdir()} >= {"curves.png", "teacher.png"}
    saved = state(run)["state_dict"]
    teacher, metadata = load_model(run / "checkpoints" / "last.safetensors")
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, saved[f"teacher.backbone.{name}"]), name
    assert not torch.equal(saved["teacher.head.mlp.0.weight"], saved["student.head.mlp.0.weight"])
    assert metadata["task"] == "dino" and metadata["metrics"]["epoch"] == 3
    capsys.readouterr()
    main(["knn", str(run / "checkpoints" / "best.safetensors"), "--k", "3", "10"])
    assert f"3-NN {100 * float(measured[1]['accuracy_knn3']):.2f} %" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["container_light", "deit_small"])
def test_the_papers_runs_are_measured_when_table_6_says(name: str) -> None:
    recipe = read_recipe(["-c", str(RECIPES / f"imagenet_{name}.yaml")], recipes())
    epochs = range(recipe.knn.every, recipe.optimization.epochs + 1, recipe.knn.every)
    assert list(epochs) == [20, 40, 60, 80, 100] and recipe.knn.neighbours[0] == 10


def test_batchnorm_modes_and_drop_path_of_student_and_teacher(recipe_file: WriteRecipe, tmp_path: Path) -> None:
    """Validation between the epochs, in eval mode, is none of the batches that BatchNorm counts."""
    path = recipe_file(optimization__epochs=2, knn__every=1)
    task = task_of(path)
    rates = [
        [part.drop_prob for part in net.modules() if isinstance(part, DropPath)] for net in (task.student, task.teacher)
    ]
    assert max(rates[0]) == pytest.approx(0.3)
    assert max(rates[1]) == 0
    assert not any(parameter.requires_grad for parameter in task.teacher.parameters())
    for name, tensor in task.student.state_dict().items():
        assert torch.equal(tensor, task.teacher.state_dict()[name])
    seen = []
    whole = Dino.training_step

    def watched(self: Dino, *arguments: Any) -> Any:
        seen.append(all(module.training for module in self.teacher.modules()))
        return whole(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Dino, "training_step", watched)
        main(["fit", "-c", str(path)])
    assert len(seen) == 14 and all(seen)
    saved = state(tmp_path / "run")["state_dict"]
    counts = {name: int(value) for name, value in saved.items() if name.endswith("num_batches_tracked")}
    assert {value for name, value in counts.items() if name.startswith("teacher.")} == {14}
    assert {value for name, value in counts.items() if name.startswith("student.")} == {28}


def test_the_prototypes_are_held_in_the_first_epoch_and_the_order_is_step_then_teacher(
    recipe_file: WriteRecipe, tmp_path: Path
) -> None:
    """With momentum 0 the teacher is the student as it is after each step."""
    path = recipe_file(dino__teacher_momentum=0.0, optimization__epochs=2, knn__every=0)
    torch.manual_seed(0)
    before = task_of(path).student.head.last_layer.weight_v.detach()
    held = []
    whole = SaveState.on_train_batch_end

    def watched(self: SaveState, trainer: Any, task: Dino, *rest: Any) -> None:
        held.append(torch.equal(task.student.head.last_layer.weight_v, before))
        momentum = task.teacher_momentum(trainer.global_step - 1)
        if trainer.global_step == 1:
            assert momentum == 0
            for one, other in zip(task.student.parameters(), task.teacher.parameters(), strict=True):
                assert torch.equal(one, other)
        whole(self, trainer, task, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SaveState, "on_train_batch_end", watched)
        main(["fit", "-c", str(path), "--run.seed", "0"])
    assert held == [True] * 7 + [False] * 7


def test_a_run_that_collapses_says_so(recipe_file: WriteRecipe, capsys: pytest.CaptureFixture[str]) -> None:
    path = recipe_file(dino__teacher_temperature=1000.0, dino__teacher_warmup_temperature=1000.0, knn__every=0)
    main(["fit", "-c", str(path), "--optimization.epochs", "2"])
    said = capsys.readouterr().out
    assert "train_teacher_entropy lies between 0 (one prototype) and 3.466 (uniform)" in said
    assert "COLLAPSE at epoch 2: the teacher's targets have become uniform: entropy 3.466 of at most 3.466" in said


def test_deit_learns_too(recipe_file: WriteRecipe, tmp_path: Path) -> None:
    options = {"patch_size": 4, "embed_dim": 24, "depth": 1, "num_heads": 2, "dynamic_img_size": True}
    path = recipe_file(model__name="vit_tiny_patch16_224", model__options=options, knn__every=2)
    main(["fit", "-c", str(path), "--optimization.epochs", "2"])
    assert float(rows(tmp_path / "run")[1]["accuracy_knn10"]) > 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"crops__local_size": 12},
            r"crops.local_size 12 does not fit container_light_tiny: take a multiple of its stride 8",
        ),
        ({"model__image_size": 20}, r"model.image_size 20 does not fit .* stride 8"),
        ({"knn__neighbours": [10, 101]}, "101 nearest neighbours are more than the 100 training images"),
    ],
)
def test_what_does_not_fit_is_one_line(recipe_file: WriteRecipe, changes: dict[str, Any], message: str) -> None:
    recipe = read_recipe(["-c", str(recipe_file(**changes))], recipes())
    with pytest.raises(UserError, match=message):
        make_job(recipe, open_data(recipe.data))


def test_a_vision_transformer_without_other_sizes_says_what_to_set(recipe_file: WriteRecipe) -> None:
    options = {"patch_size": 4, "embed_dim": 24, "depth": 1, "num_heads": 2}
    recipe = read_recipe(
        ["-c", str(recipe_file(model__name="vit_tiny_patch16_224", model__options=options))], recipes()
    )
    with pytest.raises(UserError, match=r"crops.local_size 8 does not fit .*model.options.dynamic_img_size true"):
        make_job(recipe, open_data(recipe.data))


def test_a_run_does_not_go_on_with_another_backbone(
    recipe_file: WriteRecipe, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe_file(knn__every=0)
    main(["fit", "-c", str(path), "--optimization.epochs", "2"])
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["fit", "-c", str(path), "--optimization.epochs", "2", "--model.name", "container_v1_light"])
    assert "model.name is container_light_tiny there and container_v1_light here" in capsys.readouterr().err


def test_a_stream_is_refused(recipe_file: WriteRecipe) -> None:
    with pytest.raises(UserError, match="DINO needs images by number, and 'wds/' is a stream"):
        read_recipe(["-c", str(recipe_file(data__name="wds/", data__fraction=1.0))], recipes())


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--crops.local_scale", "[0.5,0.1]", "crops.local_scale must ascend, not [0.5, 0.1]"),
        ("--crops.local_size", "64", "crops.local_size 64 is larger than model.image_size 16"),
        ("--dino.teacher_temperature", "0", "dino.teacher_temperature must be above 0"),
        ("--optimization.warmup_epochs", "3", "must be below optimization.epochs"),
        ("--optimization.accumulate", "2", "optimization.accumulate must be 1"),
        ("--optimization.ema_decay", "0.9", "optimization.ema_decay: DINO's teacher is an average itself"),
        ("--knn.neighbours", "[]", "knn.neighbours must not be empty, not []"),
        ("--model.probe", "true", "model.probe is for task classification"),
        ("--dino.teacher_momentun", "0.9", "teacher_momentum"),
    ],
)
def test_a_bad_recipe_is_one_line(
    recipe_file: WriteRecipe, option: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", "-c", str(recipe_file()), "--model.init_weights", "teacher.pth", option, value])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_fewer_images_than_a_batch(
    recipe_file: WriteRecipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fit, "build_pair", lambda *_: pytest.fail("networks were built"))
    with pytest.raises(SystemExit):
        main(["fit", "-c", str(recipe_file(optimization__batch_size=101))])
    assert "100 training images are fewer than a batch of 101" in capsys.readouterr().err


@pytest.mark.parametrize("layout", ["flat", "one class", "train and one class"])
def test_images_without_classes(
    layout: str,
    recipe_file: WriteRecipe,
    image_folder: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As dino#93 and #109 have them: k-NN is off, and no labels are needed."""
    root = image_folder(train=10, val=0)
    folder = tmp_path / "own" / {"flat": ".", "one class": "dummy", "train and one class": "train/dummy"}[layout]
    folder.mkdir(parents=True)
    for number, path in enumerate(sorted(file for file in (root / "train").rglob("*") if file.is_file())):
        path.rename(folder / f"{number}{path.suffix}")
    data = {"data__name": "folder", "data__root": str(tmp_path / "own"), "data__fraction": 1.0, "model__channels": 3}
    path = recipe_file(**data, knn__every=0, optimization__epochs=2, optimization__batch_size=7)
    main(["fit", "-c", str(path)])
    saved = state(tmp_path / "run")
    assert saved["global_step"] == 2 * (20 // 7)
    assert (tmp_path / "run" / "checkpoints" / "last.safetensors").is_file()
    metrics = (tmp_path / "run" / "metrics.csv").read_text()
    assert "train_loss" in metrics and "knn" not in metrics
    said = capsys.readouterr().out
    assert "best.safetensors" not in said and "--metric train_loss" in said


def test_neighbours_of_images_without_classes_say_what_to_set(
    recipe_file: WriteRecipe, image_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = image_folder(classes=("dummy",))
    with pytest.raises(SystemExit):
        main(["fit", "-c", str(recipe_file(data__name="folder", data__root=str(root), data__fraction=1.0))])
    assert "only k nearest neighbours need classes: knn.every 0 trains without them" in capsys.readouterr().err


def test_colour_images_and_one_channel(
    recipe_file: WriteRecipe, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    data = {"data__name": "folder", "data__root": str(image_folder(train=8, val=0)), "data__fraction": 1.0}
    path = recipe_file(**data, model__channels=1, knn__every=0, optimization__epochs=2, optimization__batch_size=7)
    main(["fit", "-c", str(path)])
    assert (tmp_path / "run" / "checkpoints" / "last.safetensors").is_file()
