"""Files in folders and tars: each once, whatever links lead to, and a tar is the folder it was made of."""

import logging
import os
import shutil
import tarfile
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from opening import folder, pixels, refused
from photographs import piece

from contagg.data.config import DataConfig
from contagg.data.folders import find_images
from contagg.data.sources import open_data

MakeFolder = Callable[..., Path]


def names(images: object) -> list[str]:
    return [images.name(index) for index in range(len(images))]  # type: ignore


def opened(root: Path, kind: str = "folder", **values: object) -> object:
    return open_data(DataConfig(name=kind, root=str(root), **values))  # type: ignore[arg-type]


def link(root: Path, **links: str) -> None:
    for place, target in links.items():
        path = root / place.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)


@pytest.mark.parametrize(
    "links",
    [
        {"train__china__loop": "."},
        {"train__china__up": ".."},
        {"train__china__top": "../.."},
        {"train__china__slash": "/"},
        {"train__china__flowers": "../flower"},
        {"train__china__a": "b", "train__china__b": "a"},  # to nowhere
        {"train__china__one": "deep", "train__china__deep__two": "..", "train__flower__deep__x": "../../china/deep"},
        {"train__china__again.png": "china 0.png", "train__flower__theirs.png": "../china/china 0.png"},
        {"train__china__lost.png": "nothing.png"},
    ],
    ids=lambda links: " ".join(links),
)
def test_each_file_counts_once_and_for_its_own_class(
    image_folder: MakeFolder, links: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    root = image_folder()
    before = open_data(folder(root))
    link(root, **links)
    with caplog.at_level(logging.WARNING):
        data = open_data(folder(root))
        found = find_images([str(root / "train")])
    assert names(data.train) == names(before.train) and data.train.labels.tolist() == before.train.labels.tolist()
    assert len(found) == 12
    assert "left out" in caplog.text and ("counted already" in caplog.text or "no" in caplog.text)


def test_loops_that_multiply_end(image_folder: MakeFolder) -> None:
    root = image_folder()
    link(root, train__china__a=".", train__china__b=".", train__china__deep__c="..", train__flower__d="../..")
    assert len(open_data(folder(root)).train) == 12


def test_links_to_elsewhere_are_followed(image_folder: MakeFolder, tmp_path: Path) -> None:
    root = image_folder()
    shutil.move(root / "train/china", tmp_path / "china elsewhere")
    shutil.move(root / "train/flower/deep", tmp_path / "deep elsewhere")
    link(root, train__china=str(tmp_path / "china elsewhere"), train__flower__deep=str(tmp_path / "deep elsewhere"))
    data = open_data(folder(root))
    assert np.bincount(data.train.labels).tolist() == [6, 6] and len(pixels(data.train)) == 12
    link(root, train__porcelain=str(tmp_path / "china elsewhere"), val__porcelain="china")
    refused(folder(root), "is a link to a folder that is counted already")


def test_what_systems_leave_behind_is_no_data(image_folder: MakeFolder) -> None:
    root = image_folder()
    before = names(open_data(folder(root)).train)
    left = ("@eaDir", "__MACOSX", ".ipynb_checkpoints", ".thumbnails", ".hidden", "@Recycle", "#recycle")
    left += ("@Recently-Snapshot", "@__thumb", "#snapshot", "$RECYCLE.BIN", "System Volume Information", "Lost+Found")
    for place in (*left, *(f"china/{name}" for name in left), *(f"china/deep/{name}" for name in left)):
        (root / "train" / place).mkdir()
        shutil.copy(root / "train/china/china 0.png", root / "train" / place / "SYNOPHOTO_THUMB.jpg")
    for name in ("._china 0.png", ".china.png", "Thumbs.db", ".DS_Store", "desktop.ini"):
        shutil.copy(root / "train/china/china 0.png", root / "train/china" / name)
    data = open_data(folder(root))
    assert names(data.train) == before and data.class_names == ("china", "flower")
    assert len(find_images([str(root / "train")])) == 12
    with tarfile.open(root / "train.tar", "w") as tar:
        tar.add(root / "train", arcname=".")
    shutil.copy(root / "train.tar", root / "val.tar")
    data = opened(root, "tar")
    assert names(data.train) == before and data.class_names == ("china", "flower")


def test_no_pipe_is_waited_for(image_folder: MakeFolder, caplog: pytest.LogCaptureFixture) -> None:
    root = image_folder()
    os.mkfifo(root / "train/china/pipe.jpg")
    with caplog.at_level(logging.WARNING):
        assert len(open_data(folder(root)).train) == 12
    assert "1 files that are not regular, such as china/pipe.jpg" in caplog.text


def test_a_class_written_in_two_ways_is_one(image_folder: MakeFolder) -> None:
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    root = image_folder((composed, "flower"))
    before = open_data(folder(root))
    moved = root.parent / "mac"
    shutil.copytree(root, moved)
    for path in sorted(moved.rglob("*"), reverse=True):
        path.rename(path.with_name(unicodedata.normalize("NFD", path.name)))
    copied = open_data(folder(moved))
    assert copied.class_names == ("café", "flower") and copied.train.name(0) != before.train.name(0)
    assert before.fingerprint().difference(copied.fingerprint().state_dict()) == ""
    (root / "val" / composed).rename(root / "val" / apart)
    (root / "train" / apart).mkdir()
    shutil.copy(root / "train/flower/flower 0.png", root / "train" / apart / "other.png")
    data = open_data(folder(root))
    assert data.class_names == ("café", "flower") and np.bincount(data.train.labels).tolist() == [7, 6]
    assert len(pixels(data.train)) == 13


@pytest.mark.parametrize("layout", ["one", "with its folder", "a tar a class", "tars in a tar"])
def test_a_tar_is_the_folder_it_was_made_of(image_folder: MakeFolder, layout: str) -> None:
    root = image_folder()
    loose = open_data(folder(root))
    for split in ("train", "val"):
        source = root / split
        if layout in ("one", "with its folder"):
            with tarfile.open(root / f"{split}.tar", "w") as tar:
                tar.add(source, arcname="." if layout == "one" else split)
            continue
        for class_folder in [path for path in source.iterdir() if path.is_dir()]:
            with tarfile.open(source / f"{class_folder.name}.tar", "w") as tar:
                tar.add(class_folder, arcname=".")
        if layout == "tars in a tar":
            with tarfile.open(root / f"{split}.tar", "w") as tar:
                for path in sorted(source.glob("*.tar")):
                    tar.add(path, arcname=f"./{path.name}")
    data = opened(root, "tar")
    assert data.class_names == loose.class_names
    for part, wanted in ((data.train, loose.train), (data.validation, loose.validation)):
        assert names(part) == names(wanted) and part.labels.tolist() == wanted.labels.tolist()
        assert all(np.array_equal(a, b) for a, b in zip(pixels(part), pixels(wanted), strict=True))
        assert part.content(3) == wanted.content(3)
    assert loose.fingerprint().difference(data.fingerprint().state_dict()) == ""


def test_tars_that_cannot_be_used_are_named(image_folder: MakeFolder, caplog: pytest.LogCaptureFixture) -> None:
    root = image_folder()
    with tarfile.open(root / "train.tar", "w:gz") as tar:
        tar.add(root / "train", arcname=".")
    with tarfile.open(root / "val.tar", "w") as tar:
        tar.add(root / "val", arcname=".")
    refused(DataConfig(name="tar", root=str(root)), r"cannot open the tar .*train\.tar: .*must be whole and not compr")
    whole = (root / "val.tar").read_bytes()
    (root / "train.tar").write_bytes(whole[: len(whole) * 2 // 3])
    refused(DataConfig(name="tar", root=str(root)), r"cannot open the tar .*train\.tar: .*must be whole and not compr")
    with tarfile.open(root / "train.tar", "w") as tar:
        tar.add(root / "train", arcname=".")
        for name, kind in (("china/a.png", tarfile.FIFOTYPE), ("china/b.png", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        tar.add(root / "train/china/china 0.png", arcname="china/../flower/x.png")
    with caplog.at_level(logging.WARNING):
        data = opened(root, "tar")
    assert len(data.train) == 12 and "3 files that are not regular, such as china/a.png" in caplog.text


def test_a_stored_index_beside_a_tar_is_not_read(image_folder: MakeFolder) -> None:
    """timm keeps one as a pickle."""
    root = image_folder()
    for split in ("train", "val"):
        with tarfile.open(root / f"{split}.tar", "w") as tar:
            tar.add(root / split, arcname=".")
        (root / f"_{split}_tarinfos.pickle").write_bytes(b"cos\nsystem\n(S'touch canary'\ntR.")
    assert len(opened(root, "tar").train) == 12
    assert not Path("canary").exists()


# Without a validation split


def test_without_val_a_part_is_held_out_by_name(
    image_folder: MakeFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = image_folder(train=15) / "train"
    with caplog.at_level(logging.WARNING):
        data = open_data(folder(root))
    assert [record.getMessage() for record in caplog.records] == [
        f"{root} has no val or valid or validation or test: 6 of its 30 images, chosen in each class by a hash of "
        "their names, are for validation (data.validation_fraction 0.2)"
    ]
    assert np.bincount(data.train.labels).tolist() == [12, 12] and np.bincount(data.validation.labels).tolist() == [
        3,
        3,
    ]
    assert not set(names(data.train)) & set(names(data.validation))
    moved = tmp_path / "elsewhere"
    shutil.copytree(root, moved)
    piece(5).save(moved / "china" / "another.png")
    now = names(open_data(folder(moved)).validation)
    assert len(set(now) & set(names(data.validation))) >= 5
    half = open_data(folder(root, validation_fraction=0.5))
    assert set(names(data.validation)) < set(names(half.validation)) and len(half.validation) == 16


def test_train_alone_is_split_and_never_lost(image_folder: MakeFolder) -> None:
    root = image_folder(train=7)
    shutil.rmtree(root / "val")
    data = open_data(folder(root))
    assert len(data.train) == 12 and len(data.validation) == 2
    with tarfile.open(root / "train.tar", "w") as tar:
        tar.add(root / "train", arcname=".")
    same = opened(root, "tar")
    assert names(same.validation) == names(data.validation)
    shutil.rmtree(root / "train/china")
    shutil.copytree(root / "train/flower/deep", root / "train/china")
    for path in sorted((root / "train/china").iterdir())[1:]:
        path.unlink()
    refused(folder(root), "the class 'china' in .* has 1 image: too few to hold out data.validation_fraction 0.2")


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test"])
def test_validation_may_be_called_otherwise(image_folder: MakeFolder, name: str) -> None:
    root = image_folder()
    (root / "val").rename(root / name)
    assert len(open_data(folder(root)).validation) == 6


def test_validation_equal_to_training_is_named(image_folder: MakeFolder, caplog: pytest.LogCaptureFixture) -> None:
    root = image_folder()
    open_data(folder(root))
    assert not caplog.records
    shutil.rmtree(root / "val")
    shutil.copytree(root / "train", root / "val")
    with caplog.at_level(logging.WARNING):
        open_data(folder(root))
    assert "the 12 validation images of 'folder' are its training images" in caplog.text
