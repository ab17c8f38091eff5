"""What is read of a clone lies in it and has a name: links, lists and names that say otherwise are refused."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from small_clones import Errors, lists, refused, save, whole

INSIDE = {
    "imagenette": ("val", "val/n01", "val/n01/a.JPEG"),
    "caltech": ("test.txt", "101_ObjectCategories", "101_ObjectCategories/ant/a.jpg"),
    "nuclei": ("stage1_train", "stage1_train/cell-b", "stage1_train/cell-g/masks/a.png"),
    "blood": ("BCCD", "BCCD/Annotations", "BCCD/JPEGImages/cell-e.jpg"),
}


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("name", INSIDE)
def test_another_folder_is_refused(name: str, there: bool, tmp_path: Path, capsys: Errors) -> None:
    first = {"imagenette": "train", "caltech": "101_ObjectCategories", "nuclei": "stage1_train", "blood": "BCCD"}[name]
    if there:
        (tmp_path / first).write_text("no folder")
    assert f"{tmp_path}/{first} is no folder: is it the clone that" in refused(capsys, name, tmp_path)


@pytest.mark.parametrize(
    "name", ["../../secret/a.jpg", "/etc/a.jpg", "a.jpg", "../a.jpg", "ant/b.jpg", "ant/../ant/a.jpg"]
)
def test_a_list_leads_nowhere_else(name: str, tmp_path: Path, capsys: Errors) -> None:
    lists(tmp_path, test=f"ant/a.jpg\n{name}".encode())
    save(tmp_path / "101_ObjectCategories/a.jpg", (200, 200))
    said = refused(capsys, "caltech", tmp_path)
    assert f"test.txt names {name!r}, where CLASS/IMAGE of {tmp_path}/101_ObjectCategories is due" in said


def test_a_list_that_is_missing_or_no_text_is_named(tmp_path: Path, capsys: Errors) -> None:
    lists(tmp_path, test=b"\xff/a.jpg")
    assert f"{tmp_path}: test.txt cannot be read: 'utf-8' codec" in refused(capsys, "caltech", tmp_path)
    (tmp_path / "test.txt").unlink()
    (tmp_path / "made").rmdir()
    assert f"{tmp_path}/test.txt is no file: is it the clone" in refused(capsys, "caltech", tmp_path)


@pytest.mark.parametrize(
    ("test", "said"),
    [
        (b"ant/a.jpg\nant/a.jpg", "test.txt names 'ant/a.jpg' more than once: leave one line of it"),
        (None, "ant/a.jpg is in train and test both: take it out of one of their lists"),
    ],
)
def test_an_image_is_in_one_list_once(test: bytes | None, said: str, tmp_path: Path, capsys: Errors) -> None:
    lists(tmp_path, test=test or b"ant/a.jpg")
    if test is None:
        (tmp_path / "train.txt").write_bytes(b"ant/a.jpg")
    assert said in refused(capsys, "caltech", tmp_path)


@pytest.mark.parametrize(("name", "place"), [(name, place) for name, places in INSIDE.items() for place in places])
def test_links_are_not_followed(name: str, place: str, tmp_path: Path, capsys: Errors) -> None:
    whole(name, tmp_path / "clone")
    linked = tmp_path / "clone" / place
    linked.rename(tmp_path / "elsewhere")
    linked.symlink_to(tmp_path / "elsewhere")
    said = refused(capsys, name, tmp_path / "clone")
    assert f"{linked} is a link to {tmp_path}/elsewhere: put what it leads to in its place" in said


@pytest.mark.parametrize("name", INSIDE)
@pytest.mark.parametrize(("wrong", "shown"), [(b"a\xff", r"a\udcff"), (b"a\n", r"a\n")])
def test_a_name_that_is_no_text_is_refused(name: str, wrong: bytes, shown: str, tmp_path: Path, capsys: Errors) -> None:
    """A class's would break the table's list of them, a line each."""
    whole(name, tmp_path)
    place = tmp_path / INSIDE[name][-1]
    try:
        place.rename(place.with_name(os.fsdecode(wrong)))
    except OSError:
        pytest.skip("a disk that takes no such names")
    assert f"/{shown}: the name '{shown}' should be readable letters in UTF-8" in refused(capsys, name, tmp_path)


def test_a_folder_that_cannot_be_looked_into_is_named(
    tmp_path: Path, capsys: Errors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whoever is root every folder can, so that it is the system here that says so."""
    whole("imagenette", tmp_path)
    scan = os.scandir

    def closed(path: str) -> Any:
        if os.fspath(path).endswith("n01"):
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    assert "train/n01 cannot be read: Permission denied" in refused(capsys, "imagenette", tmp_path)
