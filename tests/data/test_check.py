"""`contagg data check` finds what is wrong with a person's images before hours are spent."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from photographs import piece
from PIL import Image

from contagg.cli import main
from contagg.data.check import converter, guessed


def run(capsys: pytest.CaptureFixture[str], *words: object) -> list[str]:
    main(["data", "check", *map(str, words)])
    return capsys.readouterr().out.splitlines()


def test_a_folder(image_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = image_folder(train=4, val=2)
    (root / "train" / "tower").mkdir()
    for number in range(4):
        Image.new("RGB", (50, 40), (number, 0, 0)).save(root / "train" / "tower" / f"{number}.png")
    shutil.copy(root / "train/china/china 0.png", root / "train/flower/copy.png")
    shutil.copy(root / "train/china/china 2.JPEG", root / "val/china/leak.JPEG")
    (root / "train/tower/cut.png").write_bytes((root / "train/china/china 0.png").read_bytes()[:60])
    Image.new("L", (7, 500)).save(root / "train/china/tall.png")
    lines = run(capsys, root, "--output", tmp_path / "found.json")
    assert lines[0] == "train: 15 images, 3 classes"
    assert [line.split() for line in lines[1:4]] == [["china", "5"], ["flower", "5"], ["tower", "5"]]
    assert lines[4].endswith("(width x height); 1 L, 13 RGB") and "largest" in lines[4]
    assert lines[5].startswith("  unreadable: 1: tower/cut.png: ")
    assert lines[6] == "  duplicates: 1: flower/copy.png = china/china 0.png"
    assert "val: 5 images, 2 classes" in lines
    assert "in both train and val: 1 image: china/china 2.JPEG = china/leak.JPEG" in lines
    assert lines[-1] == "classes that val lacks: tower"
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["splits"]["train"]["duplicates"] == [["flower/copy.png", "china/china 0.png"]]
    assert found["shared"] == {"train and val": [["china/china 2.JPEG", "china/leak.JPEG"]]}


def test_a_class_folder_without_images_is_said_with_all_else(
    image_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = image_folder(train=4, val=2)
    for name in ("bird", "tower"):
        (root / "train" / name).mkdir()
    (root / "train" / "tower" / "readme.txt").touch()
    lines = run(capsys, root)
    assert lines[0] == "train: 8 images, 4 classes"
    assert [line.split() for line in lines[1:5]] == [["bird", "0"], ["china", "4"], ["flower", "4"], ["tower", "0"]]
    assert "  classes without images, which fit refuses: 2: bird; tower" in lines
    assert "val: 4 images, 2 classes" in lines and lines[-1] == "classes that val lacks: bird; tower"


def test_a_flat_folder_and_a_named_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        piece(number).resize((11 + number, 13)).save(tmp_path / f"{number}.png")
    lines = run(capsys, tmp_path)
    assert lines[0] == "images: 3 images, 1 class"
    assert "smallest 11 x 13, median 12 x 13, largest 13 x 13" in lines[2]
    lines = run(capsys, "digits")
    assert "train: 1,438 images, 10 classes" in lines and "validation: 359 images, 10 classes" in lines
    assert lines.count("  duplicates: 0") == 2


def test_parquet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = []
    for value in (10, 10, 200):
        file = io.BytesIO()
        Image.fromarray(np.full((5, 4), value, np.uint8)).save(file, "PNG")
        content.append(file.getvalue())
    table = pa.table({"image": [*content, b"no image"], "label": [0, 1, 1, 0]})
    pq.write_table(table, tmp_path / "train.parquet")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    lines = run(capsys, tmp_path)
    assert lines[0] == "train: 4 images, 2 classes" and lines[1].split() == ["cat", "2"]
    assert [line.split(":")[1].strip() for line in lines[-2:]] == ["1", "1"]


def coco(folder: Path) -> dict[str, Any]:
    (folder / "train").mkdir()
    for name, size in (("a.png", (30, 20)), ("b.png", (30, 20)), ("c.png", (31, 20))):
        Image.new("RGB", size, "red" if name == "a.png" else "blue").save(folder / "train" / name)
    images = [{"id": n, "file_name": f"{name}.png", "height": 20, "width": 30} for n, name in enumerate("abc")]
    box = {"image_id": 0, "category_id": 3, "bbox": [1, 1, 8, 8], "area": 64}
    crowd = {"size": [20, 30], "counts": [600]}
    return {
        "images": images,
        "annotations": [
            box | {"id": 1},
            box | {"id": 2, "iscrowd": 1, "segmentation": crowd},
        ],
        "categories": [{"id": 3, "name": "cell"}, {"id": 4, "name": "other"}],
    }


@pytest.mark.parametrize("name", ["train.json", "instances_train.json"])
def test_coco(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = coco(tmp_path)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / name).write_text(json.dumps(content))
    lines = run(capsys, tmp_path)
    assert lines[0] == "train: 3 images, 2 classes"
    assert [line.split() for line in lines[1:3]] == [["cell", "2"], ["other", "0"]]
    assert "  unreadable: 1: c.png: the JSON says 30 x 20 pixels, upright it has 31 x 20" in lines
    assert lines[-3] == "  counted are 2 objects, 1 of them crowds; 2 images have none"
    assert lines[-2].startswith("  objects in an image: median 0, most 2 (model.detections_per_image")
    assert lines[-1].startswith("  longer side of an object in pixels: median 8, nine in ten from 8 to 8 (")
    words = ("--annotations", f"annotations/{name}", "--images", "train")
    assert run(capsys, tmp_path, *words)[1:] == lines[1:]


def test_coco_that_names_a_file_or_a_category_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = coco(tmp_path)
    (tmp_path / "annotations").mkdir()
    content["images"].append(content["images"][0] | {"id": 7, "file_name": "./a.png"})
    content["categories"][1]["name"] = "cell"
    (tmp_path / "annotations/train.json").write_text(json.dumps(content))
    lines = run(capsys, tmp_path)
    assert "  files that several images name, by id: 1: a.png (0, 7)" in lines
    assert "  names of several categories: 1: cell (3, 4)" in lines
    assert [line.split() for line in lines[1:3]] == [["cell", "(3)", "2"], ["cell", "(4)", "0"]]


@pytest.mark.parametrize(
    ("boxes", "said"), [([], "has no annotation that can be used"), ([[0.1, 0.1, 0.5, 0.5]], "must be in pixels")]
)
def test_coco_that_fit_refuses(
    boxes: list[list[float]], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = coco(tmp_path)
    content["annotations"] = [{"id": 1, "image_id": 0, "category_id": 3, "bbox": box} for box in boxes]
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/train.json").write_text(json.dumps(content))
    last = run(capsys, tmp_path)[-1]
    assert last.startswith("  neither learnt from nor judged by, fit refuses it: ") and said in last


def test_images_of_a_json_without_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = coco(tmp_path)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_default.json").write_text(json.dumps(content))
    (tmp_path / "train").rename(tmp_path / "images")
    said = run(capsys, tmp_path)
    assert f"contagg data from-coco {tmp_path} -o OUT makes them" in said[0] and "default: 3 images" in said[1]


def test_how_data_lie_is_seen(tmp_path: Path) -> None:
    for name, kind in (("a/train.parquet", "parquet"), ("b/train.tar", "tar"), ("c/annotations/x.json", "coco")):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.touch()
        assert guessed(tmp_path / name[0]) == kind
    assert guessed(tmp_path / "b" / "none") == "folder"


COCO = '{"images": [{}], "annotations": [], "categories": [{}]}'


def test_other_peoples_formats_are_told_from_class_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command, layouts in {
        "from-voc": ["Annotations/a.xml", "train/a.xml", "valid/a.xml", "annotations/a.xml images/a.jpg",
                     "Annotations/batch/a.xml"],
        "from-coco": ["result.json images/a.jpg", "train/_annotations.coco.json train/a.jpg"],
        "from-yolo": ["labels/a.txt data.yaml", "train/labels/a.txt data.yaml", "labels/a.txt classes.txt images/a.jpg",
                      "a.jpg a.txt classes.txt", "obj.data obj.names obj_train_data/a.txt"],
    }.items():  # fmt: skip
        for number, layout in enumerate(layouts):
            root = tmp_path / f"{command} {number}"
            for name in layout.split():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(COCO if name.endswith("json") else "")
            with pytest.raises(SystemExit):
                run(capsys, root)
            assert (
                f"is not in the form that fit takes: contagg data {command} {root} -o OUT makes it"
                in capsys.readouterr().err
            )


def test_texts_beside_class_folders_are_no_labels(tmp_path: Path) -> None:
    for name in ("classes.txt", "README.txt", "figures.json", "cat/a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert not converter(tmp_path)


BAD = [
    (["nowhere"], "there is no folder 'nowhere', and it is none of digits"),
    (["{empty}"], "no images"),
    (["{empty}", "--name", "coco"], "has no annotations/*.json: give --annotations FILE"),
    (["{empty}", "--name", "tar"], "there is no *.tar in"),
    (["digits", "--output", "x.csv"], "--output x.csv must end in .json"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input(words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leave:
        main(["data", "check", *(word.format(empty=tmp_path) for word in words)])
    assert leave.value.code == 2 and message in capsys.readouterr().err
