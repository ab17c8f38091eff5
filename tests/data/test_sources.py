"""Folders, tars, Hugging Face's data and streams are read as they are, and what is wrong with them is one line."""

import io
import logging
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from opening import folder, pixels, refused
from photographs import piece
from PIL import Image

from contagg.data.config import DataConfig
from contagg.data.datasets import MemoryImages, balanced_part, match_classes
from contagg.data.decode import UnreadableSampleError
from contagg.data.sources import open_data, open_unlabelled, open_validation
from contagg.data.streams import ImageStream
from contagg.errors import UserError

MakeFolder = Callable[..., Path]


def test_folder_is_read(image_folder: MakeFolder) -> None:
    root = image_folder(("b", "a", "B10"))
    data = open_data(folder(root))
    assert data.class_names == ("B10", "a", "b")
    assert (
        np.bincount(data.train.labels).tolist() == [6] * 3 and np.bincount(data.validation.labels).tolist() == [3] * 3
    )
    assert data.train.name(6) == "a/a 0.png" and data.train.name(9) == "a/deep/a 1.JPEG"
    image, label = data.train[6]
    assert label == 1 and np.array_equal(np.asarray(image), np.asarray(piece(0, name="flower.jpg")))


def test_order_is_not_the_file_systems(image_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def names() -> list[str]:
        train = open_data(folder(root)).train
        return [train.name(index) for index in range(len(train))]

    root, walk = image_folder(), os.walk
    before = names()
    monkeypatch.setattr(os, "walk", lambda *given, **options: [(a, b, c[::-1]) for a, b, c in walk(*given, **options)])
    assert names() == before == sorted(before)


def test_val_may_be_called_validation(image_folder: MakeFolder) -> None:
    root = image_folder()
    (root / "val").rename(root / "validation")
    assert len(open_data(folder(root)).validation) == 6


def test_what_is_no_image_is_left_out_and_told(image_folder: MakeFolder, caplog: pytest.LogCaptureFixture) -> None:
    root = image_folder()
    (root / "train/china/notes.txt").write_text("x")
    (root / "train/china/._china 0.png").write_text("x")
    (root / "train/.cache").mkdir()
    with caplog.at_level(logging.WARNING):
        data = open_data(folder(root))
    assert len(data.train) == 12 and data.class_names == ("china", "flower")
    told = "left out: 1 hidden files, such as china/._china 0.png; 1 files that are no images, such as china/notes.txt"
    assert told in caplog.text


def test_odd_names_are_read_and_printed_on_one_line(image_folder: MakeFolder) -> None:
    root = image_folder(train=1)
    source = root / "train/china/china 0.png"
    odd = [b"new\nline.png", b"caf\xc3\xa9 \xe2\x98\x83.png", b"latin\xe9.png", b"-x'\"$(y).PNG"]
    for name in odd:
        shutil.copy(source, os.fsencode(source.parent) + b"/" + name)
    train = open_data(folder(root)).train
    assert len(train) == 6 and all(train[index][0].size == (53, 41) for index in range(6))
    names = {train.name(index) for index in range(6)}
    assert {"china/new\\nline.png", "china/café ☃.png", "china/latin\\udce9.png", "china/-x'\"$(y).PNG"} < names
    assert len(balanced_part(train, 0.5)) == 4  # hashed as bytes; 3 of 5 and 1 of 1


def test_broken_folders_are_named(image_folder: MakeFolder, tmp_path: Path) -> None:
    refused(DataConfig(name="folder"), "data.root must say where the data set 'folder' lies")
    refused(folder(tmp_path / "none"), "data.root .*none is no folder")
    root = image_folder()
    (root / "train/empty").mkdir()
    refused(folder(root), r"the class folder .*train/empty has no images \(\.jpg, ")
    (root / "train/empty").rmdir()
    (root / "val/flower").rename(root / "val/flowers")
    refused(folder(root), "classes differ in .*: validation lacks flower; training lacks flowers")
    shutil.rmtree(root / "val/flowers")
    (root / "train/flower").rename(root / "flower")
    refused(folder(root), "'folder' has but one class, 'china'")
    (root / "flower").rename(root / "train/flower")
    refused(folder(root), "classes differ in .*: validation lacks flower$")
    shutil.rmtree(root / "val")
    (root / "train").rename(root / "val")
    refused(folder(root), "no training images in data.root .*: it needs train/ beside val")
    shutil.rmtree(root / "val")
    refused(folder(root), "images has no class folders")
    (root / "train").mkdir()
    (root / "val").mkdir()
    refused(folder(root), "train has no class folders")


def test_number_of_classes_must_agree(image_folder: MakeFolder) -> None:
    root = image_folder()
    assert len(open_data(folder(root, classes=2)).class_names) == 2
    refused(folder(root, classes=3), "data.classes is 3, but 'folder' has 2 classes")


def test_corrupt_files_are_named_when_they_are_read(image_folder: MakeFolder) -> None:
    root = image_folder()
    (root / "train/china/china 0.png").write_bytes(b"")
    train = open_data(folder(root)).train
    with pytest.raises(UnreadableSampleError, match=r"china/china 0\.png: cannot identify"):
        train[0]


def make_tars(root: Path, a_tar_a_class: bool) -> None:
    for split in ("train", "val"):
        if a_tar_a_class:
            for class_folder in sorted((root / split).iterdir()):
                with tarfile.open(root / split / f"{class_folder.name}.tar", "w") as tar:
                    tar.add(class_folder, arcname=".")
        else:
            with tarfile.open(root / f"{split}.tar", "w") as tar:
                tar.add(root / split, arcname=".")


@pytest.mark.parametrize("a_tar_a_class", [True, False])
def test_tars_hold_the_same_images(image_folder: MakeFolder, a_tar_a_class: bool) -> None:
    root = image_folder()
    for deep in root.rglob("deep"):
        for file in deep.iterdir():
            file.rename(deep.parent / file.name)
        deep.rmdir()
    for file in list(root.rglob("china *")):
        file.rename(file.with_name(f"z {file.name}"))  # after all of the other tar's
    loose = open_data(folder(root))
    make_tars(root, a_tar_a_class)
    data = open_data(DataConfig(name="tar", root=str(root)))
    assert data.class_names == loose.class_names == ("china", "flower")
    for part, wanted in ((data.train, loose.train), (data.validation, loose.validation)):
        assert part.labels.tolist() == wanted.labels.tolist()
        assert all(np.array_equal(a, b) for a, b in zip(pixels(part), pixels(wanted), strict=True))
    assert data.train.name(0).endswith("china/z china 0.png")
    part = data.train.subset(np.array([7, 2]))
    assert part.name(0) == data.train.name(7) and part[0][1] == 1


def test_missing_or_broken_tars_are_named(image_folder: MakeFolder) -> None:
    root = image_folder()
    refused(DataConfig(name="tar", root=str(root)), r"data: there is no \*\.tar in data.root .*, nor train\*\.tar")
    (root / "train.tar").write_bytes(b"no tar")
    (root / "val.tar").write_bytes(b"no tar")
    refused(
        DataConfig(name="tar", root=str(root)),
        "data: cannot open the tar .*train.tar: .*; it must be whole and not compressed",
    )
    for split in ("train", "val"):
        with tarfile.open(root / f"{split}.tar", "w") as tar:
            tar.add(root / split / "china/china 0.png", arcname="./china 0.png")
    refused(DataConfig(name="tar", root=str(root)), r"train.tar has images in no class folder, such as china 0\.png")


# Hugging Face and WebDataset


def hugging_face(root: Path, labels: list[int], with_names: bool = True) -> str:
    datasets = pytest.importorskip("datasets")
    label = datasets.ClassLabel(names=["cat", "dog"]) if with_names else datasets.Value("int64")
    features = datasets.Features({"image": datasets.Image(), "label": label})
    for split in ("train", "validation"):
        rows = {"image": [piece(number) for number in range(len(labels))], "label": labels}
        (root / "data").mkdir(parents=True, exist_ok=True)
        table = datasets.Dataset.from_dict(rows, features=features)
        table.to_parquet(str(root / "data" / f"{split}-00000-of-00001.parquet"))
    return f"hfds/{root}"


def test_hugging_face_data(tmp_path: Path) -> None:
    name = hugging_face(tmp_path / "set", [0, 1, 1, 0, 1])
    data = open_data(DataConfig(name=name, root=str(tmp_path / "cache"), fraction=0.5))
    assert data.class_names == ("cat", "dog") and np.bincount(data.train.labels).tolist() == [1, 2]
    assert data.validation.labels.tolist() == [0, 1, 1, 0, 1]
    assert np.array_equal(pixels(data.validation)[3], np.asarray(piece(3)))
    assert data.validation.name(3) == "validation row 3"


def test_hugging_face_data_under_other_keys(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    name, cache = hugging_face(tmp_path / "set", [0, 1, 1]), str(tmp_path / "cache")
    for file in (tmp_path / "set/data").iterdir():
        table = datasets.Dataset.from_parquet(str(file), cache_dir=cache)
        table.rename_columns({"image": "img", "label": "kind"}).to_parquet(str(file))
    refused(DataConfig(name=name, root=cache), "data: 'hfds/.*' cannot open 'train': ")
    refused(DataConfig(name=name, root=cache, image_key="img"), "cannot open 'train': KeyError: 'label'")
    data = open_data(DataConfig(name=name, root=cache, image_key="img", label_key="kind"))
    assert data.train.labels.tolist() == [0, 1, 1] and data.train[2][0].size == (53, 41)


def test_hugging_face_data_without_names_need_a_number_of_classes(tmp_path: Path) -> None:
    name, cache = hugging_face(tmp_path / "set", [0, 2, 1], with_names=False), str(tmp_path / "cache")
    refused(DataConfig(name=name, root=cache), "data.classes must be given, since 'hfds/.*' does not name its classes")
    assert open_data(DataConfig(name=name, root=cache, classes=3)).class_names == ("0", "1", "2")
    refused(
        DataConfig(name=name, root=cache, classes=2), "the training split of .* has the label 2, but with 2 classes"
    )


def test_missing_hugging_face_data_or_split(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    refused(DataConfig(name=f"hfds/{tmp_path}/none", root=str(tmp_path)), "data.name: '.*none' is neither a folder nor")
    name = hugging_face(tmp_path / "set", [0, 1])
    config = DataConfig(name=name, root=str(tmp_path / "cache"), validation_split="test")
    refused(config, "data: 'hfds/.*' cannot open 'test': ")


OPAQUE = np.repeat([[0] * 20 + [255] * 33], 41, axis=0).astype(np.uint8)
"""The left of an image of 53 x 41 is transparent."""


def web_dataset(root: Path, labels: list[int], shards: int = 2) -> DataConfig:
    pytest.importorskip("webdataset")
    for shard in range(shards):
        with tarfile.open(root / f"shard-{shard}.tar", "w") as tar:
            for number, label in list(enumerate(labels))[shard::shards]:
                file = io.BytesIO()
                image = piece(number)
                image.putalpha(Image.fromarray(OPAQUE))
                image.save(file, "PNG")
                for kind, content in (("png", file.getvalue()), ("cls", str(label).encode())):
                    member = tarfile.TarInfo(f"{number:03d}.{kind}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    split = f"shard-{{0..{shards - 1}}}.tar|{len(labels)}"
    return DataConfig(name="wds/", root=str(root), train_split=split, validation_split=split, classes=3)


def test_web_dataset_streams(tmp_path: Path) -> None:
    data = open_data(web_dataset(tmp_path, [0, 1, 2, 1, 0]))
    assert isinstance(data.train, ImageStream) and data.class_names == ("0", "1", "2")
    seen = sorted((label, np.asarray(image).tobytes()) for image, label in data.validation)
    over_white = [np.where(OPAQUE[..., None], np.asarray(piece(number)), 255).astype(np.uint8) for number in range(5)]
    wanted = sorted((label, image.tobytes()) for label, image in zip([0, 1, 2, 1, 0], over_white, strict=True))
    assert seen == wanted and len(data.validation) == 5


def test_web_dataset_with_labels_beyond_the_classes(tmp_path: Path) -> None:
    data = open_data(web_dataset(tmp_path, [0, 1, 3]))
    with pytest.raises(UserError, match="data: the stream has the label 3, but with 3 classes labels are 0 to 2"):
        list(data.validation)


def test_learning_without_labels_takes_all_training_images(image_folder: MakeFolder, tmp_path: Path) -> None:
    root = image_folder(train=3, val=2)
    flat = open_unlabelled(DataConfig(name="folder", root=str(root / "train" / "china")))
    assert len(flat.train) == 3 and len(flat.validation) == 0 and flat.class_names == ("images",)
    below_train = open_unlabelled(DataConfig(name="folder", root=str(root)))
    assert len(below_train.train) == 6 and set(below_train.train.labels) == {0}
    assert below_train.fingerprint().difference(below_train.fingerprint().state_dict()) == ""
    half = open_unlabelled(DataConfig(name="folder", root=str(root), fraction=0.5))
    assert len(half.train) == 3
    digits = open_unlabelled(DataConfig(name="digits"))
    assert len(digits.train) == 1438 and len(digits.validation) == 0
    with pytest.raises(UserError, match="has no images"):
        (tmp_path / "empty").mkdir()
        open_unlabelled(DataConfig(name="folder", root=str(tmp_path / "empty")))


@pytest.mark.parametrize("split", ["val", "test", "validation"])
def test_what_judges_needs_no_training_images(split: str, image_folder: MakeFolder) -> None:
    root = image_folder(train=1, val=2)
    shutil.rmtree(root / "train")
    (root / "val").rename(root / split)
    images, class_names = open_validation(DataConfig(name="folder", root=str(root)))
    assert len(images) == 4 and class_names == ("china", "flower")


def test_a_folder_without_splits_is_judged_by_its_held_out_part_or_whole(image_folder: MakeFolder) -> None:
    config = DataConfig(name="folder", root=str(image_folder(train=10, val=0) / "train"))
    held_out, _ = open_validation(config)
    assert held_out.identity == open_data(config).validation.identity and len(held_out) == 4
    assert len(open_validation(config, alone=True)[0]) == 20


def test_classes_are_matched_by_name() -> None:
    images = MemoryImages(np.zeros((5, 2, 2), np.uint8), np.array([0, 1, 2, 1, 0]))
    matched, line = match_classes(images, ("bird", "dog", "ant"), ("ant", "cat", "dog"), "the data")
    assert matched.labels.tolist() == [2, 0, 2]
    assert [matched.name(number) for number in range(3)] == ["image 1", "image 2", "image 3"]
    assert line.startswith("1 of its 3 classes have no images in the data: cat; ")
    assert line.endswith("2 images of classes that it does not know left out: bird")
    assert match_classes(images, ("a", "b", "c"), ("a", "b", "c"), "x") == (images, "")
    with pytest.raises(UserError, match=r"tells 2 classes apart \(d, e\), x have 3 \(a, b, c\): none is among them"):
        match_classes(images, ("a", "b", "c"), ("d", "e"), "x")
