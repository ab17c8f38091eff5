"""`contagg data from-voc`: boxes come out where they lie, faults are named with file and line, no file acts."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import conversions
import pytest
from PIL import Image

from contagg.cli import main
from contagg.data.coco.voc import MOST_ELEMENTS, read_xml
from contagg.errors import UserError

converted, failure = partial(conversions.converted, "from-voc"), partial(conversions.failure, "from-voc")
OBJECT = """
  <object>
    <name>{name}</name><difficult>{difficult}</difficult>
    <bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox>
  </object>"""


def marked(*boxes: tuple[Any, ...], name: str = "cell", difficult: int = 0, size: tuple[int, int] = (13, 11)) -> str:
    """An XML; sizes are width and height."""
    objects = "".join(OBJECT.format(*box, name=name, difficult=difficult) for box in boxes)
    width, height = size
    return f"<annotation>\n  <size><width>{width}</width><height>{height}</height></size>{objects}\n</annotation>"


def add(root: Path, stem: str, text: str, image: str = ".jpg", folders: bool = True) -> None:
    images, marks = (root / "JPEGImages", root / "Annotations") if folders else (root, root)
    images.mkdir(parents=True, exist_ok=True)
    marks.mkdir(exist_ok=True)
    Image.new("RGB", (13, 11)).save(images / f"{stem}{image}")
    (marks / f"{stem}.xml").write_text(text)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = tmp_path / "voc"
    for number in range(20):
        add(root, f"p{number}", marked((1, 1, 13, 11), name="pigeon" if number % 2 else "crow"))
    return root


def test_boxes_count_from_one_and_hold_their_last_pixel(voc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(voc, "p0", marked((1, 1, 13, 11), (3, 4, 3, 4), (13, 1, 13, 11), name="crow"))
    found = converted(voc)
    boxes = [a["bbox"] for content in found.values() for a in content["annotations"]]
    assert sorted(boxes)[-2:] == [[2, 3, 1, 1], [12, 0, 1, 11]] and boxes.count([0, 0, 13, 11]) == 20
    assert all(a["area"] == a["bbox"][2] * a["bbox"][3] for c in found.values() for a in c["annotations"])
    out = voc.parent / "out"
    assert sum(len(list((out / split).iterdir())) for split in ("train", "val")) == 20
    one = next((out / "val").iterdir())
    assert one.stat().st_ino == (voc / "JPEGImages" / one.name).stat().st_ino  # no space is taken
    main(["data", "check", str(out)])
    assert "unreadable: 0" in capsys.readouterr().out


def test_the_other_way_of_counting_is_asked_for(voc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(voc, "p0", marked((0, 0, 13, 11), (2, 3, 5, 9), name="crow"))
    boxes = [a["bbox"] for c in converted(voc, "--from-zero").values() for a in c["annotations"]]
    assert [2, 3, 3, 6] in boxes and [0, 0, 13, 11] in boxes
    assert "--from-zero" not in capsys.readouterr().out


def test_a_box_from_zero_is_told(voc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(voc, "p0", marked((0, 1, 5, 5), name="crow"))
    assert [0, 0, 5, 5] in [a["bbox"] for c in converted(voc).values() for a in c["annotations"]]
    assert "note: 1 box begins at pixel 0, and VOC's first is 1: clipped" in capsys.readouterr().out


def test_difficult_objects_are_crowds(voc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(voc, "p0", marked((1, 1, 5, 5), name="crow", difficult=1))
    assert sum(a["iscrowd"] for c in converted(voc).values() for a in c["annotations"]) == 1
    assert "1 difficult object became crowds" in capsys.readouterr().out


def test_splits_are_those_of_image_sets_or_of_a_hash(voc: Path, tmp_path: Path) -> None:
    lists = voc / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for split, numbers in {"train": range(12), "val": range(12, 16), "trainval": range(16), "test": [16]}.items():
        (lists / f"{split}.txt").write_text("".join(f"p{number}\n" for number in numbers))
    found = converted(voc)
    assert {split: len(content["images"]) for split, content in found.items()} == {"train": 12, "val": 4, "test": 1}
    main(["data", "from-voc", str(voc), "-o", str(tmp_path / "hashed"), "--split", "hash", "--hold-out", "3"])
    names = [i["file_name"] for i in json.loads((tmp_path / "hashed/annotations/val.json").read_text())["images"]]
    assert names == [
        "p11.jpg",
        "p12.jpg",
        "p15.jpg",
        "p17.jpg",
        "p4.jpg",
        "p7.jpg",
        "p8.jpg",
    ]  # so on every machine, for ever


def test_folders_of_splits_with_xmls_beside_images(tmp_path: Path) -> None:
    root = tmp_path / "voc"
    for split in ("train", "valid"):
        for number in range(3):
            add(root / split, f"{split} {number}", marked((1, 1, 3, 3)), ".png", folders=False)
    assert {split: len(content["images"]) for split, content in converted(root).items()} == {"train": 3, "val": 3}


def test_classes_in_an_order_of_ones_own(voc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = [{"id": 1, "name": "pigeon"}, {"id": 2, "name": "crow"}]
    assert converted(voc, "--classes", "pigeon", "crow")["val"]["categories"] == expected
    main(["data", "from-voc", str(voc), "-o", str(voc.parent / "sorted")])
    content = json.loads((voc.parent / "sorted/annotations/val.json").read_text())
    assert [category["name"] for category in content["categories"]] == ["crow", "pigeon"]


def test_an_image_that_was_renamed_is_found_by_what_the_xml_says(voc: Path) -> None:
    add(voc, "p0", marked((1, 1, 5, 5), name="crow").replace("<size>", "<filename>other.png</filename><size>"))
    (voc / "JPEGImages/p0.jpg").unlink()
    Image.new("RGB", (13, 11)).save(voc / "JPEGImages/other.png")
    assert "other.png" in [image["file_name"] for c in converted(voc).values() for image in c["images"]]


FAULTS = {
    "Annotations/p0.xml, line 3: the box from 2, 0 to 16, 11 leaves the 13 x 11 pixels by 3": marked((3, 1, 16, 11)),
    "Annotations/p0.xml, line 3: the box from 6, 0 to 5, 11 has no width or height": marked((7, 1, 5, 11)),
    "line 3: its <xmin> must be a number, not 'nan'": marked(("nan", 1, 5, 11)),
    "line 3: its <ymax> must be a number, not ''": marked((1, 1, 5, "")),
    "line 3: its <xmax> must be a number, not '1e9'": marked((1, 1, "1e9", 5)),
    "line 3: the object has no <name>": marked((1, 1, 5, 5), name=" "),
    "line 3: the object has no <bndbox>": marked((1, 1, 5, 5)).replace("bndbox", "box"),
    "line 2: it says 11 x 13 pixels, p0.jpg has 13 x 11 upright": marked((1, 1, 5, 5), size=(11, 13)),
    "line 1: it begins with <html>, VOC's with <annotation>": "<html/>",
    "p0.xml: it is no readable XML: mismatched tag: line 1": "<annotation></b>",
    "p0.xml: it declares a document type": '<!DOCTYPE a [<!ENTITY b "b">]><annotation>&b;</annotation>',
}


@pytest.mark.parametrize("text", FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named_with_its_file_and_line(voc: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    add(voc, "p0", text)
    expected = next(said for said, content in FAULTS.items() if content == text)
    assert expected in failure(voc, capsys)


def test_faults_are_said_together(voc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(5):
        add(voc, f"p{number}", marked((1, 1, 50, 5), (1, 1, 5, 5)))
    (voc / "JPEGImages/p7.jpg").write_text("no image")
    said = failure(voc, capsys)
    assert "has 6 faults: Annotations/p0.xml, line 3: the box" in said and said.endswith("; and 3 more\n")
    assert failure(voc, capsys, "--clip-boxes", "40").endswith("p7.xml: its image p7.jpg: cannot identify it as "
                                                               "JPEG, PNG, WEBP, BMP, GIF, PPM, TIFF\n")  # fmt: skip


def test_a_wrong_word_is_answered_with_the_nearest(voc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = failure(voc, capsys, "--classes", "pigeon", "crowe")
    assert "class 'crow' of p0.jpg is none of --classes pigeon, crowe. Did you mean 'crowe'?" in said


@pytest.mark.parametrize("name", ["../secret.jpg", "{root}/secret.jpg", "deep/secret.jpg"])
def test_an_xml_reaches_no_file_elsewhere(name: str, voc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (voc / "JPEGImages/deep").mkdir()
    for folder in (voc, voc / "JPEGImages/deep"):
        Image.new("RGB", (13, 11)).save(folder / "secret.jpg")
    said = f"<filename>{name.format(root=voc)}</filename><size>"
    add(voc, "p0", marked((1, 1, 5, 5)).replace("<size>", said))
    (voc / "JPEGImages/p0.jpg").unlink()
    assert "there is no image p0.* in JPEGImages/" in failure(voc, capsys)


def test_xml_within_bounds(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    nested = '<!DOCTYPE a [<!ENTITY x "x"><!ENTITY y "&x;&x;">]><annotation>&y;</annotation>'
    outside = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>'
    for text, said in {
        nested: "declares a document type",
        outside: "declares a document type",
        "<a>" * 40 + "</a>" * 40: "more than 30 within each other",
        "<a>" + "<b/>" * MOST_ELEMENTS + "</a>": "more than 500,000 elements",
        " " * ((16 << 20) + 1): "larger than 16,777,216 bytes",
    }.items():
        path.write_text(text)
        with pytest.raises(UserError, match=said):
            read_xml(path)
    with pytest.raises(UserError, match=r"it is a folder, no regular file|directory"):
        read_xml(tmp_path)


def test_folders_of_another_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "voc"
    root.mkdir()
    assert "has no XML files: Pascal VOC has one for each image" in failure(root, capsys)
    add(root, "a", marked())
    assert "no object is marked in any image" in failure(root, capsys)
    add(root, "a", marked((1, 1, 5, 5)))
    assert "of 1 image --hold-out can take none for validation" in failure(root, capsys)
    assert "--hold-out 1: of 2 images or more" in failure(root, capsys, "--hold-out", "1")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/kept").touch()
    with pytest.raises(SystemExit):
        converted(root)
    assert "is there and not empty: give a new folder" in capsys.readouterr().err and (tmp_path / "out/kept").exists()
