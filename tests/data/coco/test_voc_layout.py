"""`contagg data from-voc` takes what tools write, tells what it leaves out, and never writes into what it reads."""

import shutil
from functools import partial
from pathlib import Path

import conversions
import pytest
from PIL import Image

failure = partial(conversions.failure, "from-voc")
XML = """<annotation><filename>{0}</filename><object><name>cell</name>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>6</ymax></bndbox></object></annotation>"""


def add(root: Path, name: str, images: str = "JPEGImages", marks: str = "Annotations", shade: int = 0) -> Path:
    """An image and its XML; the image's path."""
    image, mark = root / images / f"{name}.png", root / marks / f"{name}.xml"
    for path in (image, mark):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (13, 11), shade).save(image)
    mark.write_text(XML.format(image.name))
    return image


def listed(root: Path, **lists: list[str]) -> None:
    folder = root / "ImageSets/Main"
    folder.mkdir(parents=True)
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())


def converted(root: Path, *options: str) -> dict[str, list[str]]:
    """The images of each split."""
    found = conversions.converted("from-voc", root, *options)
    return {split: [image["file_name"] for image in content["images"]] for split, content in found.items()}


def test_images_of_one_name_in_two_splits_stay_as_they_are(tmp_path: Path) -> None:
    root = tmp_path / "voc"
    files = [add(root, str(n), s, s, 10 * n + k) for k, s in enumerate(("train", "valid")) for n in range(6)]
    before = [path.read_bytes() for path in files]
    found = converted(root, "--split", "hash", "--hold-out", "2")
    assert [path.read_bytes() for path in files] == before
    assert len({name for names in found.values() for name in names}) == 12
    for split, names in found.items():
        for name in names:
            assert (tmp_path / "out" / split / name).read_bytes() == (root / name).read_bytes()


def test_an_image_that_two_xmls_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "voc"
    image = add(root, "a")
    add(root, "b")
    (root / "Annotations/c.xml").write_text(XML.format("a.png"))
    listed(root, train=["a", "c"], val=["b"])
    before = image.read_bytes()
    assert "JPEGImages/a.png is marked twice" in failure(root, capsys) and image.read_bytes() == before


def test_lists_as_windows_writes_them_with_spaces_in_names(tmp_path: Path) -> None:
    root = tmp_path / "voc"
    for name in ("blood, 1 (copy)", "b", "c"):
        add(root, name)
    listed(root, train=["blood, 1 (copy)", "b  1", "b"], val=["c -1", ""])
    assert converted(root) == {"train": ["blood, 1 (copy).png", "b.png"], "val": ["c.png"]}


def test_lists_that_cannot_be_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "voc"
    for name in "abc":
        add(root, name)
    listed(root, train=["a"])
    converted(root)
    assert "note: ImageSets/Main has train.txt but not both train.txt and val.txt" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "out")
    shutil.rmtree(root / "ImageSets")
    listed(root, train=["a", "z"], val=["b"])
    assert failure(root, capsys).endswith("train.txt lists 'z' without an XML\n")


def test_folders_below_annotations(tmp_path: Path) -> None:
    root = tmp_path / "voc"
    for name in ("first/a", "second/a", "b"):
        add(root, name)
    add(root, "c")
    (root / "Annotations/deep").mkdir()
    (root / "Annotations/c.xml").rename(root / "Annotations/deep/c.xml")  # its image lies in no folder
    listed(root, train=["first/a", "b", "deep/c"], val=["second/a"])
    assert converted(root) == {"train": ["first/a.png", "b.png", "c.png"], "val": ["second/a.png"]}


def test_folders_by_other_names(tmp_path: Path) -> None:
    root = tmp_path / "voc"
    for number in range(6):
        add(root, str(number), "images", "annotations")
    assert sum(map(len, converted(root, "--hold-out", "2").values())) == 6


def test_images_and_xmls_that_are_left_out_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "voc"
    for name in "abc":
        add(root, name)
    Image.new("L", (13, 11)).save(root / "JPEGImages/d.png")
    listed(root, train=["a"], val=["b"])
    assert converted(root) == {"train": ["a.png"], "val": ["b.png"]}
    said = capsys.readouterr().out
    assert "note: 1 XMLs stand in none of train.txt, val.txt: left out" in said
    assert "note: 1 image has no XML, left out: such as JPEGImages/d.png" in said


def test_of_two_images_of_one_name_the_one_without_an_xml_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "voc"
    for name in "ab":
        add(root, name)
    Image.new("L", (13, 11)).save(root / "JPEGImages/a.jpg")
    assert sorted(name for names in converted(root).values() for name in names) == ["a.png", "b.png"]
    assert "note: 1 image has no XML, left out: such as JPEGImages/a.jpg" in capsys.readouterr().out


def test_without_validation_some_of_training_are_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "voc"
    for number in range(9):
        add(root, str(number), *["train" if number < 6 else "test"] * 2)
    found = converted(root, "--hold-out", "2")
    assert found["test"] == ["6.png", "7.png", "8.png"] and len(found["train"] + found["val"]) == 6 and found["val"]
    (root / "train").rename(root / "val")
    (tmp_path / "out").rename(tmp_path / "first")
    assert "there are test and val, but nothing for training" in failure(root, capsys)


def test_of_trainval_some_are_held_out_and_test_stays_test(tmp_path: Path) -> None:
    root = tmp_path / "voc"
    for number in range(8):
        add(root, str(number))
    listed(root, trainval=[str(number) for number in range(6)], test=["6", "7"])
    found = converted(root, "--hold-out", "2")
    assert found["test"] == ["6.png", "7.png"] and len(found["train"] + found["val"]) == 6


def test_two_folders_of_one_split_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train", "val", "valid"):
        add(tmp_path / "voc", name, name, name)
    assert "has both val and valid: which is for validation?" in failure(tmp_path / "voc", capsys)
