"""`contagg data from-yolo`: boxes and polygons come out where they lie, faults are named with file and line."""

import os
import shutil
from functools import partial
from pathlib import Path

import conversions
import numpy as np
import pytest
from PIL import Image

from contagg.cli import main
from contagg.data.coco.annotations import read_annotations
from contagg.data.coco.masks import to_mask
from contagg.data.coco.yolo_layout import class_names
from contagg.errors import UserError

converted, failure = partial(conversions.converted, "from-yolo"), partial(conversions.failure, "from-yolo")
YAML = "path: .\ntrain: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n"


def add(root: Path, split: str, stem: str, text: str | None, size: tuple[int, int] = (20, 10)) -> None:
    for kind in ("images", "labels"):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(root / "images" / split / f"{stem}.png")
    if text is not None:
        (root / "labels" / split / f"{stem}.txt").write_text(text)


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    root = tmp_path / "yolo"
    add(root, "train", "a", "1 0.5 0.5 0.2 0.4\n\n0 0 0 1 0 1 1 0 1\n")
    add(root, "train", "b", None)
    add(root, "val", "c", "0 0.25 0.25 0.5 0.5\n")
    (root / "data.yaml").write_text(YAML)
    return root


def test_boxes_and_polygons(yolo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = converted(yolo)
    box, polygon = found["train"]["annotations"]
    assert (box["bbox"], box["area"], box["category_id"]) == ([8, 3, 4, 4], 16, 2) and "segmentation" not in box
    assert (polygon["bbox"], polygon["area"], polygon["category_id"]) == ([0, 0, 20, 10], 200, 1)
    assert polygon["segmentation"] == [[0, 0, 20, 0, 20, 10, 0, 10]]
    assert found["val"]["annotations"][0]["bbox"] == [0, 0, 10, 5]
    assert [image["file_name"] for image in found["train"]["images"]] == ["a.png", "b.png"]
    printed = capsys.readouterr().out
    assert "1 image has no text in labels/" in printed
    assert "1 object is a polygon and 2 boxes: Mask R-CNN needs polygons" in printed


def test_a_polygons_mask_is_that_of_its_pixels(yolo: Path) -> None:
    corners = np.array([[2, 1], [17, 3], [9, 9]])
    (yolo / "labels/val/c.txt").write_text("0 " + " ".join(f"{v:.9f}" for v in (corners / (20, 10)).ravel()))
    (annotation,) = converted(yolo)["val"]["annotations"]
    mask = to_mask(annotation["segmentation"], (10, 20))
    assert np.array_equal(mask, to_mask([corners.ravel().tolist()], (10, 20))) and mask.sum() == annotation["area"]
    assert annotation["bbox"] == [2, 1, 15, 8]
    out = yolo.parent / "out"
    read_annotations(out / "annotations/val.json", out / "val", needs_masks=True)


def test_an_image_that_exif_turns_is_measured_upright(yolo: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(yolo / "images/val/c.png", exif=exif)
    content = converted(yolo)["val"]
    assert (content["images"][0]["width"], content["images"][0]["height"]) == (10, 20)
    assert content["annotations"][0]["bbox"] == [0, 0, 5, 10]


@pytest.mark.parametrize(
    "yaml",
    [
        "train: ../train/images\nval: ../valid/images\nnames: [cat, dog]\nnc: 2",
        "path: ../somewhere/else\ntrain: train/images\nvalid: [valid/images]\nnames: [cat, dog]",
        "train: train.txt\nval: valid/images\nnames: [cat, dog]",
    ],
)
def test_ways_in_which_folders_are_laid_out(yaml: str, tmp_path: Path) -> None:
    root = tmp_path / "yolo"
    for split in ("train", "valid"):
        for kind in ("images", "labels"):
            (root / split / kind / "deep").mkdir(parents=True)
        Image.new("RGB", (20, 10)).save(root / split / "images/deep/x.png")
        (root / split / "labels/deep/x.txt").write_text("0 .5 .5 1 1\n")
    (root / "train.txt").write_text("./train/images/deep/x.png\n")
    (root / "data.yaml").write_text(yaml)
    found = converted(root)
    assert {split: len(content["annotations"]) for split, content in found.items()} == {"train": 1, "val": 1}


def test_without_validation_some_are_held_out(yolo: Path) -> None:
    for number in range(9):
        add(yolo, "train", f"n{number}", "0 0.5 0.5 0.5 0.5")
    (yolo / "data.yaml").write_text("train: images/train\nnames: [cat, dog]")
    found = converted(yolo, "--hold-out", "3")
    names = {split: {image["file_name"] for image in content["images"]} for split, content in found.items()}
    assert len(names["train"] | names["val"]) == 11 and not names["train"] & names["val"] and len(names["val"]) >= 2


def test_a_line_that_stands_twice_is_taken_once(yolo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (yolo / "labels/val/c.txt").write_text("0 0.25 0.25 0.5 0.5\n0 0.25  0.25 0.5 0.5\n")
    assert len(converted(yolo)["val"]["annotations"]) == 1
    assert "1 line stands twice" in capsys.readouterr().out


def test_a_text_is_of_one_image(yolo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (50, 60)).save(yolo / "images/train/a.jpg")
    Image.new("RGB", (50, 60)).save(yolo / "images/train/b.jpg")  # which has none, as b.png
    words = "images/train/a.png: labels/train/a.txt is its text and that of images/train/a.jpg: which image is it of?"
    assert words in failure(yolo, capsys)


FAULTS = {
    "2 0.5 0.5 0.2 0.4": "labels/val/c.txt, line 2: class 2 is none of the 2 that are named, from 0",
    "-1 0.5 0.5 0.2 0.4": "line 2: class -1 is none",
    "0.5 0.5 0.5 0.2 0.4": "line 2: class 0.5 is none",
    "cat 0.5 0.5 0.2 0.4": "line 2: 'cat' is no number",
    "0 nan 0.5 0.2 0.4": "line 2: 'nan' is no number",
    "0 0.5 0.5 0.2": "line 2: 4 values; a box has 5",
    "0 0.5 0.5 0.2 0.4 0.9": "line 2: 6 values; a box has 5",
    "0 0.1 0.1 0.2 0.2 0.3 0.3 0.4": "line 2: 8 values; a box has 5, a polygon of n corners 1 + 2 n",
    "0 0.5 0.5 0 0.4": "line 2: the box from 10, 3 to 10, 7 has no width or height",
    "0 0.9 0.5 0.4 0.4": "line 2: the box from 14, 3 to 22, 7 leaves the 20 x 10 pixels by 2; --clip-boxes allows some",
    "0 10 5 4 4": "line 2: 10 is no fraction of the image: YOLO counts from 0 to 1, not in pixels",
    "9" * 50: "line 2: '999999999999999...99999999999999' is no number",
    "0 0.1 0.1 0.1 0.2 0.101 0.3": "line 2: the polygon encloses no pixel",
    "0 0.1 0.1 0.3 0.3 1.4 0.2": "leaves the 20 x 10 pixels by 8",
}


@pytest.mark.parametrize("line", FAULTS)
def test_a_fault_is_named_with_its_file_and_line(line: str, yolo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (yolo / "labels/val/c.txt").write_text(f"0 0.25 0.25 0.5 0.5\n{line}\n")
    assert FAULTS[line] in failure(yolo, capsys)


def test_corners_beyond_by_less_than_a_pixel_are_clipped(yolo: Path) -> None:
    (yolo / "labels/val/c.txt").write_text("0 -0.04 0 0.5 0 0.5 1.05\n1 0.99 0.5 0.1 0.2\n")
    polygon, box = converted(yolo)["val"]["annotations"]
    assert polygon["segmentation"] == [[0, 0, 10, 0, 10, 10]] and polygon["bbox"] == [0, 0, 10, 10]
    assert box["bbox"] == [18.8, 4, 1.2, 2]


YAMLS = {
    "train: /etc\nnames: [a]": "there is no '/etc' in",
    "train: ../other\nnames: [a]": "there is no '../other' in",
    "path: /\ntrain: etc\nnames: [a]": "what lies elsewhere is not read",
    "names: [a]": "its data.yaml has no 'train'",
    "train: {a: b}\nnames: [a]": "names {'a': 'b'} where a folder was expected",
    "train: images/train": "'names' must be a list of the classes, not None",
    "train: images/train\nnames: {0: a, 2: b}": "numbered from 0, and 1 is missing",
    "train: images/train\nnames: [a, a]": "the name 'a' stands twice",
    "train: images/train\nnames: [a]\nnc: 3": "nc is 3, but it has 1 name",
    "train: images/train\nnames: [a]\nnc: true": "nc is True, but it has 1 name",
    "train: images/train\nnames: [a, true]": "the name of a class must be a text, not True",
    "train: images/train\nnames: !!python/object:os.system [a]": "the tag",
    "- a": "must hold keys and values",
    "train: [": "not readable YAML",
}


@pytest.mark.parametrize("yaml", YAMLS)
def test_a_wrong_data_yaml(yaml: str, yolo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (yolo.parent / "other").mkdir()
    (yolo / "data.yaml").write_text(yaml)
    assert YAMLS[yaml] in failure(yolo, capsys)


def test_folders_of_another_kind(yolo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "from-yolo", str(yolo), "-o", str(yolo.parent / "first")])
    (yolo / "images/train/a.png").write_bytes(b"no image")
    assert "images/train/a.png: cannot identify it as" in failure(yolo, capsys)
    Image.new("RGB", (20, 10)).save(yolo / "images/train/a.png")
    (yolo / "labels/train/a.txt").unlink()
    assert "none of 2 training images has a label" in failure(yolo, capsys)
    (yolo / "data.yaml").unlink()
    assert "has no data.yaml" in failure(yolo, capsys)


def test_names_are_shown_as_they_can_be_printed() -> None:
    assert class_names({"names": ["a\x1b[31m", 3]}) == ["a\\x1b[31m", "3"]
    with pytest.raises(UserError, match="must be a text"):
        class_names({"names": [["a"]]})


def test_a_name_that_is_no_utf8(yolo: Path) -> None:
    for kind, ending in (("images", ".png"), ("labels", ".txt")):
        odd = os.fsdecode(b"\xff" + ending.encode())
        (yolo / kind / "train" / f"a{ending}").rename(yolo / kind / "train" / odd)
    (yolo / "data.yaml").write_text("train: images/train\nnames: [cat, dog]\n")  # held out by a hash of names
    found = converted(yolo)
    names = [image["file_name"] for content in found.values() for image in content["images"]]
    assert sorted(names) == ["b.png", "\udcff.png"]
    folder = next(split for split, content in found.items() if content["images"][0]["file_name"] == "\udcff.png")
    assert (yolo.parent / "out" / folder / "\udcff.png").is_file()


def test_what_keeps_from_learning_is_told(yolo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (yolo / "labels/val/c.txt").write_text("")
    converted(yolo)
    assert "no image of val has an object, and fit refuses that" in capsys.readouterr().out
    (yolo / "data.yaml").write_text("train: images/train\nval: images/train\nnames: [cat, dog]\n")
    shutil.rmtree(yolo.parent / "out")
    converted(yolo)
    assert "2 images are in both train and val, which is then no test" in capsys.readouterr().out


def test_a_name_that_yaml_takes_for_nothing(yolo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (yolo / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, null]\n")
    assert "data.yaml: the name of a class must be a text, not None; 'null' is one in quotes" in failure(yolo, capsys)
