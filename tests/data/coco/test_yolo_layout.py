"""`contagg data from-yolo` takes what tools write: without data.yaml, with paths of other machines, with skeletons."""

from functools import partial
from pathlib import Path
from typing import Any

import conversions
import pytest
from PIL import Image

converted, failure = partial(conversions.converted, "from-yolo"), partial(conversions.failure, "from-yolo")
LINE = "1 0.5 0.5 0.2 0.4\n"
BOM = b"\xef\xbb\xbf"


def add(root: Path, *names: str, text: str = LINE) -> None:
    """Images, each with its text where YOLO has it, or beside it."""
    for name in names:
        image = root / name
        labels = (root / name.replace("images/", "labels/")).with_suffix(".txt")
        for path in (image, labels):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10)).save(image)
        labels.write_text(text)


def names_of(found: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    assert all([c["name"] for c in content["categories"]] == ["cat", "dog"] for content in found.values())
    assert all(a["bbox"] == [8, 3, 4, 4] and a["category_id"] == 2 for c in found.values() for a in c["annotations"])
    return {split: [image["file_name"] for image in content["images"]] for split, content in found.items()}


@pytest.mark.parametrize(
    ("images", "folder"),
    [
        ([f"images/{n}.png" for n in range(8)], "."),  # Label Studio
        ([f"{n}.png" for n in range(8)], "."),  # LabelImg
        ([f"images/{n}.png" for n in range(8)], "labels"),  # LabelImg, texts in a folder of their own
    ],
)
def test_classes_txt_alone(images: list[str], folder: str, tmp_path: Path) -> None:
    add(tmp_path / "yolo", *images)
    (tmp_path / "yolo" / folder / "classes.txt").write_text("cat\r\ndog\r\n")
    found = names_of(converted(tmp_path / "yolo", "--hold-out", "3"))
    assert sorted(found["train"] + found["val"]) == [f"{n}.png" for n in range(8)] and found["val"]


@pytest.mark.parametrize("images", [["images/train/a.png", "images/val/b.png"], ["train/a.png", "valid/b.png"]])
def test_classes_txt_and_folders_of_splits(images: list[str], tmp_path: Path) -> None:
    add(tmp_path / "yolo", *images)
    (tmp_path / "yolo/classes.txt").write_text("cat\ndog")
    assert names_of(converted(tmp_path / "yolo")) == {"train": ["a.png"], "val": ["b.png"]}


def test_darknets_files(tmp_path: Path) -> None:
    add(tmp_path / "yolo", "obj_train_data/a.png", "obj_valid_data/b.png")
    for name, text in {
        "obj.data": "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\nbackup = b/",
        "obj.names": "cat\ndog\n",
        "train.txt": "data/obj_train_data/a.png\n",
        "valid.txt": "data/obj_valid_data/b.png\n",
    }.items():
        (tmp_path / "yolo" / name).write_text(text)
    found = names_of(converted(tmp_path / "yolo"))
    assert found == {"train": ["obj_train_data/a.png"], "val": ["obj_valid_data/b.png"]}


@pytest.mark.parametrize(
    "yaml",
    [
        "train: /content/cells/images/train\nval: /content/cells/images/val\nnames: [cat, dog]",
        "path: D:\\cells\ntrain: images\\train\nval: images\\val\nnames: [cat, dog]",
        "train: D:\\cells\\images\\train\nval: ..\\images\\val\nnames: [cat, dog]",
        "train: train.txt\nval: val.txt\nnames: [cat, dog]",
    ],
)
def test_paths_of_another_machine(yaml: str, tmp_path: Path) -> None:
    add(tmp_path / "yolo", "images/train/a.png", "images/val/b.png")
    (tmp_path / "yolo/data.yaml").write_text(yaml)
    (tmp_path / "yolo/train.txt").write_text("/home/me/cells/images/train/a.png\n")
    (tmp_path / "yolo/val.txt").write_text("D:\\cells\\images\\val\\b.png\n")
    found = names_of(converted(tmp_path / "yolo"))
    assert {split: [Path(name).name for name in names] for split, names in found.items()} == {
        "train": ["a.png"],
        "val": ["b.png"],
    }


def test_a_folder_that_is_not_there_is_not_that_of_another_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(tmp_path / "yolo", "images/a.png")
    (tmp_path / "yolo/data.yaml").write_text("train: images\nval: ../valid/images\nnames: [cat, dog]")
    assert "there is no '../valid/images' in" in failure(tmp_path / "yolo", capsys)


def test_a_test_set_that_is_not_there_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(tmp_path / "yolo", "train/images/a.png", "valid/images/b.png")
    (tmp_path / "yolo/data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: [cat, dog]"
    )
    assert set(names_of(converted(tmp_path / "yolo"))) == {"train", "val"}
    assert "note: test was left out: there is no '../test/images'" in capsys.readouterr().out


def test_two_names_of_one_split_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(tmp_path / "yolo", "images/train/a.png", "images/val/b.png")
    (tmp_path / "yolo/data.yaml").write_text(
        "train: images/train\nval: images/val\nvalid: images/val\nnames: [cat, dog]"
    )
    assert "data.yaml has both val and valid" in failure(tmp_path / "yolo", capsys)


def test_what_windows_writes_before_a_text_is_no_part_of_it(tmp_path: Path) -> None:
    root = tmp_path / "yolo"
    add(root, "images/train/a.png", "images/val/b.png")
    (root / "data.yaml").write_text("train: train.txt\nval: images/val\nnames: [cat, dog]")
    (root / "train.txt").write_text("images/train/a.png")
    for path in (*root.rglob("*.txt"), root / "data.yaml"):
        path.write_bytes(BOM + path.read_bytes().replace(b"\n", b"\r\n"))
    found = names_of(converted(root))
    assert found == {"train": ["images/train/a.png"], "val": ["b.png"]}


def test_points_of_a_skeleton_are_no_corners(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "yolo"
    add(root, "images/train/a.png", "images/val/b.png", text=f"{LINE.strip()} 0.1 0.1 0.9 0.9\n")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nkpt_shape: [2, 2]\nnames: [cat, dog]")
    assert names_of(converted(root))
    assert "2 objects have points of a skeleton: the boxes alone were taken" in capsys.readouterr().out
    (tmp_path / "out").rename(tmp_path / "first")
    for shape, shown in {
        "many": "'many'",
        "[-1, 2]": "[-1, 2]",
        "[2, -2]": "[2, -2]",
        "[true, 2]": "[True, 2]",
    }.items():
        (root / "data.yaml").write_text(f"train: images/train\nkpt_shape: {shape}\nnames: [cat, dog]")
        assert f"has the kpt_shape {shown}: two numbers are expected" in failure(root, capsys)


def test_nothing_outside_the_folder_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add(tmp_path, "train/images/a.png")
    (tmp_path / "yolo").mkdir()
    monkeypatch.chdir(tmp_path / "yolo")
    Path("data.yaml").write_text("train: ../train/images\nval: ../train/images\nnames: [cat, dog]")
    with pytest.raises(SystemExit):
        converted(Path(), out=tmp_path / "out")
    assert "there is no '../train/images' in ., as its data.yaml says" in capsys.readouterr().err


def test_a_folder_above_called_images_has_no_labels_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(tmp_path, "images/yolo/train/a.png")  # whose text lies in labels/yolo/train
    root = tmp_path / "images/yolo"
    (root / "data.yaml").write_text("train: train\nval: train\nnames: [cat, dog]")
    assert "none of 1 training image has a label" in failure(root, capsys)
    (root / "train/a.txt").write_text(LINE)
    assert names_of(converted(root))["train"] == ["a.png"]


def test_an_image_that_a_list_names_twice_is_taken_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "yolo"
    add(root, "images/train/a.png", "images/val/b.png")
    (root / "data.yaml").write_text("train: train.txt\nval: images/val\nnames: [cat, dog]")
    (root / "train.txt").write_text("images/train/a.png\n./images/train/a.png\n")
    assert names_of(converted(root))["train"] == ["images/train/a.png"]
    assert "1 image stands more than once in the list of train" in capsys.readouterr().out
