"""`contagg validate` on a small network, and on which images it is judged."""

import csv
import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image
from small_network import CLASSES, expected, fail, run

from contagg.checkpoints.weights import read_weights, save_weights
from contagg.cli import main
from contagg.data.sources import DataConfig, open_data
from contagg.self_supervised.evaluation import _which_data
from contagg.training.building import data_of_run
from contagg.training.checkpoint import checkpoints

FIT = {
    "task": "classification",
    "model": {
        "name": "container_light_tiny",
        "image_size": 32,
        "options": {"embed_dims": [8, 8, 16, 32], "depths": [1, 1, 1, 1]},
    },
    "optimization": {"epochs": 1, "warmup_epochs": 0, "batch_size": 4},
    "run": {"workers": 0, "accelerator": "cpu", "loggers": []},
}


def test_validate_counts_every_image(
    checkpoint: Path, image_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = image_folder(classes=tuple(CLASSES), train=1, val=3)
    (checkpoint.parents[1] / "recipe.yaml").write_text(yaml.safe_dump({"data": {"name": "folder", "root": str(root)}}))
    printed = run(capsys, "validate", str(checkpoint), "--batch-size", "4")
    data = open_data(DataConfig(name="folder", root=str(root)))
    found = []
    for image, label in data.validation:
        image.save(root / "one.png")
        found.append(expected(checkpoint, root / "one.png").argmax().item() == label)
    assert f"accuracy {100 * sum(found) / 9:.2f} % of 9 images" in printed
    with (checkpoint.parents[1] / "figures" / "confusion.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert [sum(map(int, row[1:])) for row in rows] == [3, 3, 3]
    assert sum(int(row[1 + number]) for number, row in enumerate(rows)) == sum(found)


def test_validate_names_what_does_not_fit(
    checkpoint: Path, image_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    printed = fail(capsys, "validate", str(checkpoint))
    assert "--data.name and --data.root must say which data to use" in printed
    root = image_folder(classes=("cat", "dog"), train=1, val=1)
    printed = fail(capsys, "validate", str(checkpoint), "--data.name", "folder", "--data.root", str(root))
    assert "tells 3 classes apart (china, flower, tower), the data have 2 (cat, dog): none is among them" in printed


@pytest.mark.parametrize("layout", ["val", "test", "."])
def test_a_test_folder_alone_is_validated_by_the_names_of_its_classes(
    layout: str,
    checkpoint: Path,
    image_folder: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It lacks train/ and the class china, and has one that the network does not know."""
    made = image_folder(classes=("bird", "flower", "tower"), train=0, val=2)
    folder = tmp_path / "own" / layout
    folder.parent.mkdir(exist_ok=True)
    (made / "val").rename(folder)
    printed = run(capsys, "validate", str(checkpoint), "--data.root", str(tmp_path / "own"))
    assert "of 4 images" in printed
    assert "1 of its 3 classes have no images in the data: china" in caplog.text
    assert "2 images of classes that it does not know left out: bird" in caplog.text
    with (checkpoint.parents[1] / "figures" / "confusion.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0][1:] == CLASSES and [sum(map(int, row[1:])) for row in rows[1:]] == [0, 2, 2]
    guesses = [expected(checkpoint, path).argmax().item() for path in sorted((folder / "tower").rglob("*.*"))]
    assert [int(count) for count in rows[3][1:]] == [guesses.count(number) for number in range(3)]


@pytest.fixture
def trained(tmp_path: Path, image_folder: Callable[..., Path]) -> tuple[Path, Path]:
    """The folder of a run, and its images: 16 learnt from and 4 held out by a hash."""
    root = image_folder(train=10, val=0) / "train"
    recipe = FIT | {"data": {"name": "folder", "root": str(root)}}
    recipe["run"] |= {"folder": str(tmp_path / "fitted")}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    main(["fit", "-c", str(tmp_path / "recipe.yaml")])
    return tmp_path / "fitted", root


def test_no_image_that_was_trained_on_counts(
    trained: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of data without splits that moved, that grew, and of other images of the same folder names."""
    folder, root = trained
    shutil.copy(root / "china" / "china 0.png", tmp_path / "seen.png")
    moved = root.rename(tmp_path / "moved")
    validate = ("validate", str(folder), "--data.root", str(moved))
    assert "of 4 images" in run(capsys, *validate)
    assert f"{moved}: left out are 16 of 20 images: the run was trained on them" in caplog.text
    for number in range(30):  # whose hashes push some of the four aside, and learnt ones into their place
        shutil.copy(tmp_path / "seen.png", moved / "china" / f"later {number}.png")
    assert "of 34 images" in run(capsys, *validate)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["data"]["root"] = str(moved)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    caplog.clear()
    printed = run(capsys, "validate", str(folder))
    kept = open_data(DataConfig(name="folder", root=str(moved))).validation
    fresh = sum("later" in kept.name(number) for number in range(len(kept)))
    held_out = int(printed.split(" images")[0].split()[-1])
    assert fresh <= held_out <= fresh + 4
    assert (held_out < len(kept)) == ("the run was trained on them" in caplog.text)
    others = tmp_path / "others"
    for name in ("china", "flower"):
        (others / name).mkdir(parents=True)
        Image.new("RGB", (40, 30)).save(others / name / "1.png")
    caplog.clear()
    assert "of 2 images" in run(capsys, "validate", str(folder), "--data.root", str(others))
    assert f"{others}: all 2 images count, none has name, class and size of one trained on" in caplog.text


def test_what_was_trained_on_must_be_known(
    trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder, root = trained
    kept = open_data(DataConfig(name="folder", root=str(root))).validation
    for number in range(len(kept)):
        (root / kept.name(number)).unlink()
    validate = ("validate", str(folder), "--data.root", str(root))
    assert f"the run was trained on all 16 images in {root}" in fail(capsys, *validate)
    for state in checkpoints(folder / "checkpoints"):
        state.unlink()
    printed = fail(capsys, *validate)
    assert "cannot be told" in printed and f"put those to judge by into {root / 'test'}" in printed
    (folder / "recipe.yaml").unlink()
    assert "of 16 images" in run(capsys, *validate)
    assert "all 16 images count, also where the network was trained on them" in caplog.text


def test_images_are_read_with_the_bit_depth_of_the_file(checkpoint: Path, tmp_path: Path) -> None:
    """Also where no recipe lies beside it, and by nearest neighbours: 12 bits were taken for 16, and were black."""
    state, metadata = read_weights(checkpoint)
    given = {"name": "folder", "root": str(tmp_path)}
    for depth in (None, 12):
        metadata["preprocessing"]["bit_depth"] = depth
        save_weights(checkpoint, state, metadata)
        assert data_of_run(checkpoint, given).bit_depth == depth
        assert _which_data(checkpoint, Namespace(data=str(tmp_path), root=None)).bit_depth == depth
    recipe = checkpoint.parents[1] / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"data": given | {"bit_depth": 10}}))
    assert data_of_run(checkpoint, given).bit_depth == 10
