"""`contagg predict --annotations`: images and categories are called as a JSON calls them, or it is said why not."""

import json
from pathlib import Path
from typing import Any

import pytest

from contagg.data.coco.entries import Category
from contagg.detection.numbering import numbering_of
from contagg.errors import UserError

OWN = [Category(1, "cat"), Category(2, "dog")]


def written(folder: Path, images: dict[Any, str], categories: dict[int, str]) -> Path:
    content = {
        "images": [{"id": number, "file_name": name} for number, name in images.items()],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in categories.items()],
    }
    file = folder / "truth.json"
    file.write_text(json.dumps(content))
    return file


def test_ids_are_those_of_names(tmp_path: Path) -> None:
    images = {70: "a.png", "b7": "deep/b.png", 5: "one\\c.png", 6: "two\\c.png", 9: "more.png"}
    file = written(tmp_path, images, {7: "dog", 9: "cat", 1: "emu"})
    paths = [Path("a.png"), tmp_path / "moved" / "b.png", Path("x/two/c.png"), Path("x/one/c.png")]
    found = numbering_of(file, paths, OWN)
    assert found.images == dict(zip(paths, [70, "b7", 6, 5], strict=True)) and found.categories == [9, 7]


def test_of_two_categories_of_one_name_that_of_the_detectors_id(tmp_path: Path) -> None:
    file = written(tmp_path, {1: "a.png"}, {3: "dog", 2: "dog", 8: "cat"})
    assert numbering_of(file, [Path("a.png")], OWN).categories == [8, 2]


def test_images_that_are_not_given_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = written(tmp_path, {1: "a.png", 2: "b.png", 3: "c.png"}, {1: "cat", 2: "dog"})
    numbering_of(file, [Path("b.png")], OWN)
    assert "has 2 images that are not given" in caplog.text


@pytest.mark.parametrize("which", ["images", "categories"])
def test_an_id_that_is_given_twice(which: str, tmp_path: Path) -> None:
    file = written(tmp_path, {1: "a.png"}, {1: "cat", 2: "dog"})
    content = json.loads(file.read_text())
    content[which].append({"id": 1, "file_name": "b.png", "name": "emu"})
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="its id is given twice"):
        numbering_of(file, [Path("a.png")], OWN)


WRONG = {
    "has not 5 images by name: c.png, d.png, e.png and 2 more": ["a.png", *(f"{letter}.png" for letter in "cdefg")],
    "has not 1 image by name: A.png": ["A.png"],
    "x/a.png and y/a.png are both 'a.png' of --annotations": ["x/a.png", "y/a.png"],
    "^b.png: which image of --annotations .* is it: one/b.png, two/b.png": ["b.png"],
}


@pytest.mark.parametrize("said", WRONG)
def test_images_that_are_not_told_apart(said: str, tmp_path: Path) -> None:
    file = written(tmp_path, {1: "a.png", 2: "one/b.png", 3: "two/b.png"}, {1: "cat", 2: "dog"})
    with pytest.raises(UserError, match=said):
        numbering_of(file, [Path(name) for name in WRONG[said]], OWN)


@pytest.mark.parametrize(
    ("images", "categories", "said"),
    [
        ({1: "a.png"}, {1: "cat"}, "has no category 'dog', which the detector finds"),
        ({1: "a.png"}, {1: "cat", 3: "dog", 4: "dog"}, "has 2 categories 'dog', which the detector finds"),
        ({1: "a.png", 2: "a.png"}, {1: "cat", 2: "dog"}, "'a.png' is also the file of image 1"),
        ({1: ""}, {1: "cat", 2: "dog"}, "its 'file_name' must be a text"),
    ],
)
def test_files_that_number_nothing(
    images: dict[Any, str], categories: dict[int, str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        numbering_of(written(tmp_path, images, categories), [Path("a.png")], OWN)
