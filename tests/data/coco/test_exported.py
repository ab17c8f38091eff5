"""`contagg data from-coco`: whatever shape a tool gives COCO's JSON, `fit` can take what comes out."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import conversions
import numpy as np
import pytest
from PIL import Image

from contagg.data.coco.annotations import read_annotations
from contagg.data.coco.masks import to_rle

failure = partial(conversions.failure, "from-coco")
MASK = np.zeros((11, 13), np.uint8)
MASK[2:5, 3:9] = 1
BOX = [3, 2, 6, 3]
RUNS = [11 * 3 + 2, *[3, 8] * 5, 3, 11 * 13 - (11 * 3 + 2) - 11 * 5 - 3]


def content(*names: str) -> dict[str, Any]:
    """Of images by these names, with one object each, alternately of two classes."""
    return {
        "images": [{"id": n, "file_name": name, "width": 13, "height": 11} for n, name in enumerate(names)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 3 + 4 * (n % 2), "bbox": BOX, "area": 18, "iscrowd": 0}
            for n in range(len(names))
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
    }


def add(root: Path, *images: str) -> None:
    for shade, name in enumerate(images):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (13, 11), shade).save(root / name)


def converted(root: Path, *options: str) -> dict[str, dict[str, Any]]:
    found = conversions.converted("from-coco", root, *options)
    out = root.parent / "out"
    for split in found:
        read_annotations(out / "annotations" / f"{split}.json", out / split)
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two splits, of which each test changes the first."""
    folder = tmp_path / "coco"
    add(folder, "train/a.png", "train/b.png", "val/c.png")
    (folder / "annotations").mkdir()
    for split, names in {"train": ("a.png", "b.png"), "val": ("c.png",)}.items():
        (folder / f"annotations/{split}.json").write_text(json.dumps(content(*names)))
    return folder


def change(root: Path, **values: Any) -> None:
    """The first annotation of the training images; None takes a key away."""
    path = root / "annotations/train.json"
    said = json.loads(path.read_text())
    said["annotations"][0] |= values
    said["annotations"][0] = {key: value for key, value in said["annotations"][0].items() if value is not None}
    path.write_text(json.dumps(said))


@pytest.mark.parametrize(
    ("json_at", "images", "said"),
    [
        ("annotations/instances_default.json", "images/default/{}.png", "{}.png"),  # CVAT
        ("result.json", "images/{}.png", "images\\{}.png"),  # Label Studio on Windows
        ("result.json", "images/deep/{}.png", "/data/upload/1/{}.png"),
        ("coco.json", "{}.png", "C:\\photos\\{}.png"),
    ],
)
def test_one_json_is_split_by_a_hash(json_at: str, images: str, said: str, tmp_path: Path) -> None:
    root = tmp_path / "coco"
    add(root, *(images.format(n) for n in range(9)))
    (root / json_at).parent.mkdir(exist_ok=True)
    (root / json_at).write_text(json.dumps(content(*(said.format(n) for n in range(9)))))
    found = converted(root, "--hold-out", "3")
    names = {split: {image["file_name"] for image in one["images"]} for split, one in found.items()}
    assert set(names) == {"train", "val"} and names["train"] | names["val"] == {f"{n}.png" for n in range(9)}
    for split, one in found.items():
        assert [category["name"] for category in one["categories"]] == ["cat", "dog"]
        places = {image["id"]: image["file_name"] for image in one["images"]}
        for entry in one["annotations"]:
            name = places[entry["image_id"]]
            assert (entry["bbox"], entry["category_id"]) == (BOX, 1 + int(name[0]) % 2)
            assert (tmp_path / "out" / split / name).read_bytes() == (root / images.format(name[0])).read_bytes()


def test_a_folder_a_split_and_a_category_above_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "coco"
    for split in ("train", "valid", "test"):
        add(root, f"{split}/a.png")
        said = content("a.png")
        said["categories"] = [
            {"id": 0, "name": "pets", "supercategory": "none"},
            {"id": 3, "name": "cat", "supercategory": "pets"},
        ]
        (root / split / "_annotations.coco.json").write_text(json.dumps(said))
    found = converted(root)
    assert set(found) == {"train", "val", "test"}
    assert all(one["categories"] == [{"id": 1, "name": "cat"}] for one in found.values())
    assert [image["file_name"] for image in found["val"]["images"]] == ["a.png"]
    assert "1 category that only names a group of others: left out" in capsys.readouterr().out


@pytest.mark.parametrize("ids", [(0, 3), (9, 3)])
def test_a_project_called_as_its_class_is(
    ids: tuple[int, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "coco"
    for split in ("train", "valid"):
        add(root, f"{split}/a.png")
        said = content("a.png")
        said["categories"] = [{"id": n, "name": "cat", "supercategory": "none"} for n in ids]
        (root / split / "_annotations.coco.json").write_text(json.dumps(said))
    found = converted(root)
    assert all(one["categories"] == [{"id": 1, "name": "cat"}] for one in found.values())
    assert "1 category that only names a group of others: left out" in capsys.readouterr().out


def test_two_classes_of_one_name(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = root / "annotations/train.json"
    path.write_text(path.read_text().replace("dog", "cat"))
    said = conversions.failure("from-coco", root, capsys)
    assert "'cat' is also the name of category 3, and both have objects" in said


def test_fractions_are_refused_as_fit_refuses_them(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (root / "annotations").iterdir():
        path.write_text(path.read_text().replace(str(BOX), "[0.25, 0.25, 0.5, 0.5]"))
    assert "no box reaches beyond the first pixel: boxes of COCO" in conversions.failure("from-coco", root, capsys)


RLE = to_rle(MASK)
SHAPES: dict[str, dict[str, Any]] = {
    "no box": {"bbox": None, "area": None, "segmentation": RLE},
    "runs": {"bbox": None, "segmentation": {"size": [11, 13], "counts": RUNS}},
    "polygon": {"segmentation": [[3, 2, 9, 2, 9, 5, 3, 5]]},
    "a polygon not within a list": {"segmentation": [3, 2, 9, 2, 9, 5, 3, 5], "bbox": None},
    "an empty polygon": {"segmentation": [[]]},
    "two corners": {"segmentation": [[3, 2, 9, 5]], "area": None},
    "no ids": {"id": None, "iscrowd": None},
    "texts": {"id": "x", "image_id": "0", "category_id": "3"},
    "numbers with a point": {"image_id": 0.0, "category_id": 3.0, "bbox": [3.0, 2.0, 6.0, 3.0]},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_of_an_annotation(shape: str, root: Path) -> None:
    change(root, **SHAPES[shape])
    first = converted(root)["train"]["annotations"][0]
    assert (first["bbox"], first["area"], first["category_id"], first["iscrowd"]) == (BOX, 18, 1, 0)
    assert ("segmentation" in first) == (shape in ("no box", "runs") or shape.startswith(("polygon", "a polygon")))


def test_crowds_stay_and_objects_without_extent_go(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(root, iscrowd=1)
    assert converted(root)["train"]["annotations"][0]["iscrowd"] == 1
    (root.parent / "out").rename(root.parent / "first")
    change(root, bbox=[3, 2, 0, 3])
    assert len(converted(root)["train"]["annotations"]) == 1
    assert "note: 1 object without width or height left out" in capsys.readouterr().out


FAULTS: dict[str, dict[str, Any]] = {
    "annotations/train.json, annotation 0: the box from 3, 2 to 23, 5 leaves the 13 x 11": {"bbox": [3, 2, 20, 3]},
    "annotation 0: category 5 is not declared": {"category_id": 5},
    "annotation 0: its box must be four numbers x, y, width, height, not None": {"bbox": None},
    "annotation 0: its box must be four numbers": {"bbox": [1, 2, 3]},
    "annotation 0: its box must be four numbers x, y, width, height, not [True": {"bbox": [True, 1, 2, 3]},
    "has 2 faults: annotations/train.json, annotation 0: category 5 is not declared; "
    "annotations/train.json, annotation 0: its box must be four numbers x, y, width, height, not [1, 2, 3]": {
        "category_id": 5,
        "bbox": [1, 2, 3],
    },
    "has a negative width or height, or is not finite": {"bbox": [1, 2, -3, 4]},
    "or height, or is not finite": {"bbox": [1, 2, 3, float("nan")]},
    "negative width or height, or is not finite": {"bbox": [1, 2, 3, 10**400]},
    "annotation 0: the RLE is broken": {"segmentation": {"size": [11, 13], "counts": "0"}},
    "annotation number 1: it has no 'image_id'": {"image_id": None},
    "annotations are of image 9, which is not among the images": {"image_id": 9},
    "its 'image_id' must be a number or a text": {"image_id": [0]},
}


@pytest.mark.parametrize("said", FAULTS)
def test_a_fault_is_named_with_its_entry(said: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(root, **FAULTS[said])
    assert said in failure(root, capsys)


def test_images_that_are_not_there_or_of_another_size(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "train/a.png").rename(root / "train/d.png")
    assert "annotations/train.json, image 0: there is no image 'a.png' in the folder" in failure(root, capsys)
    Image.new("L", (11, 13)).save(root / "train/a.png")
    assert "image 0 is 13 x 11 pixels there, a.png has 11 x 13 upright" in failure(root, capsys)
    add(root, "train/a.png", "train/deep/a.png")
    assert "which image is 'a.png': train/a.png, train/deep/a.png?" in failure(root, capsys)


@pytest.mark.parametrize("name", ["../secret.png", "{root}/secret.png"])
def test_nothing_outside_the_folder_is_read(name: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(root.parent, "secret.png")
    (root / "annotations/train.json").write_text(json.dumps(content(name.format(root=root.parent))))
    assert "there is no image" in failure(root, capsys)


def test_jsons_of_no_split(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "annotations/val.json").rename(root / "annotations/mine.json")
    assert "of which split is annotations/mine.json? Call them train.json" in failure(root, capsys)
    (root / "annotations/mine.json").rename(root / "annotations/my_train.json")
    assert "of which split is annotations/train.json and annotations/my_train.json" in failure(root, capsys)
    for path in (root / "annotations").iterdir():
        path.unlink()
    assert "has no COCO JSON" in failure(root, capsys)


@pytest.mark.parametrize(("one_in", "names"), [(1000, "abcdefghij"), (2, "cd")])
def test_of_few_images_one_is_held_out_and_one_is_not(one_in: int, names: str, tmp_path: Path) -> None:
    """A hash takes none of ten, or both of two."""
    root = tmp_path / "coco"
    files = [f"{name}.png" for name in names]
    add(root, *files)
    (root / "result.json").write_text(json.dumps(content(*files)))
    found = converted(root, "--hold-out", str(one_in))
    assert sorted(image["file_name"] for one in found.values() for image in one["images"]) == files
    assert min(len(found[split]["images"]) for split in ("train", "val")) == 1
