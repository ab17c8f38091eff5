"""Data by name are what they should be, and what is wrong with them is one line."""

import gzip
import io
import logging
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from photographs import piece
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10

from contagg.classification.config import DataConfig
from contagg.classification.datasets import ImageData, ImageStream, MemoryImages, balanced_part, printable
from contagg.classification.named import DEBIAN_FASHION_MNIST
from contagg.classification.sources import open_data
from contagg.errors import UserError
from contagg.training.sampling import UnreadableSampleError

MakeFolder = Callable[..., Path]

# Another value here means that every published fraction has changed.
PINNED_PART = [
    2,
    6,
    17,
    18,
    29,
    47,
    55,
    66,
    72,
    90,
    99,
    101,
    115,
    133,
    139,
    143,
    144,
    168,
    176,
    190,
    193,
    195,
    222,
    228,
    240,
    249,
    258,
    264,
    272,
    273,
    292,
]


def refused(config: DataConfig, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        open_data(config)
    assert "\n" not in str(caught.value)


def pixels(images: object) -> list[np.ndarray]:
    return [np.asarray(image) for image, _ in (images[index] for index in range(len(images)))]  # type: ignore


# Digits, Fashion-MNIST, CIFAR-10


def test_digits_are_split_by_class_and_are_those_of_scikit_learn() -> None:
    data = open_data(DataConfig(name="digits"))
    digits = load_digits()
    counts = np.bincount(digits.target)
    assert np.abs(np.bincount(data.validation.labels) - counts / 5).max() <= 0.5
    assert len(data.train) + len(data.validation) == 1797 and data.class_names == tuple("0123456789")
    seen = {image.tobytes() for image in pixels(data.train)} & {image.tobytes() for image in pixels(data.validation)}
    assert not seen
    number = int(data.validation.name(7).removeprefix("image "))
    image, label = data.validation[7]
    assert label == digits.target[number]
    assert np.abs(np.asarray(image) - digits.images[number] * 255 / 16).max() <= 0.5


def test_split_of_digits_is_pinned() -> None:
    assert [open_data(DataConfig(name="digits")).validation.name(index) for index in range(5)] == [
        "image 12",
        "image 13",
        "image 21",
        "image 29",
        "image 30",
    ]


def write_idx(path: Path, values: np.ndarray, zipped: bool) -> None:
    content = np.array([0x0800 + values.ndim, *values.shape], dtype=">u4").tobytes() + values.tobytes()
    if zipped:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


def small_fashion(root: Path, zipped: bool = True) -> np.ndarray:
    images = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    for split in ("train", "t10k"):
        write_idx(root / f"{split}-images-idx3-ubyte", images, zipped)
        write_idx(root / f"{split}-labels-idx1-ubyte", np.array([0, 9, 3, 4, 4], dtype=np.uint8), zipped)
    return images


@pytest.mark.parametrize("zipped", [True, False])
def test_fashion_mnist_is_read_from_any_folder(tmp_path: Path, zipped: bool) -> None:
    images = small_fashion(tmp_path, zipped)
    data = open_data(DataConfig(name="fashion-mnist", root=str(tmp_path)))
    assert np.array_equal(pixels(data.train), images)
    assert data.validation.labels.tolist() == [0, 9, 3, 4, 4] and data.class_names[9] == "Ankle boot"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte.gz", None, "no train-images-idx3-ubyte.gz in"),
        ("t10k-labels-idx1-ubyte.gz", b"", "t10k-labels-idx1-ubyte.gz is no whole idx file of 1 dimensions"),
        ("train-images-idx3-ubyte.gz", gzip.compress(b"\0\0\x08\x03\0\0\0\x05"), "no whole idx file of 3 dimensions"),
        ("train-images-idx3-ubyte.gz", gzip.compress(bytes(99)), "begins with 0x0"),
        ("train-images-idx3-ubyte.gz", gzip.compress(bytes(9999))[:20], "no whole idx file"),
        ("train-labels-idx1-ubyte.gz", gzip.compress(b"\0\0\x08\x01\0\0\0\x01\0"), "5 train images, but 1 labels"),
        ("train-labels-idx1-ubyte.gz", gzip.compress(b"\0\0\x08\x01\0\0\0\x05\0\0\0\0\x0a"), "the label 10, but"),
    ],
    # Named: the bytes of a gzip file hold the time, and xdist's processes must agree on a test's name.
    ids=["missing", "empty", "header only", "wrong magic", "cut", "too few labels", "label out of range"],
)
def test_broken_fashion_mnist_is_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    small_fashion(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    refused(DataConfig(name="fashion-mnist", root=str(tmp_path)), message)


@pytest.mark.skipif(not Path(DEBIAN_FASHION_MNIST).is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_fashion_mnist_of_debian() -> None:
    data = open_data(DataConfig(name="fashion-mnist", fraction=0.1))
    assert len(data.train) == 6000 and len(data.validation) == 10_000
    assert np.bincount(data.train.labels).tolist() == [600] * 10
    assert data.train[0][0].size == (28, 28)


def test_cifar10_is_read_and_never_fetched_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(DataConfig(name="cifar10"), "data.root must say where the data set 'cifar10' lies")
    refused(DataConfig(name="cifar10", root=str(tmp_path)), "holds no whole cifar-10-batches-py: .* set data.download")
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", None]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", None]])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": None})
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (3, 3072), dtype=np.uint8)
    for name, content in (
        ("data_batch_1", {"data": images, "labels": [2, 0, 1]}),
        ("test_batch", {"data": images[:1], "labels": [2]}),
        ("batches.meta", {"label_names": ["airplane", "automobile", "bird"]}),
    ):
        (folder / name).write_bytes(pickle.dumps(content))
    data = open_data(DataConfig(name="cifar10", root=str(tmp_path)))
    image, label = data.train[1]
    assert label == 0 and data.class_names == ("airplane", "automobile", "bird")
    assert np.array_equal(np.asarray(image).transpose(2, 0, 1).ravel(), images[1])
    elsewhere = tmp_path / "elsewhere"
    refused(DataConfig(name="cifar10", root=str(elsewhere)), "data.root .*elsewhere is no folder")
    monkeypatch.setattr(CIFAR10, "download", lambda self: shutil.copytree(tmp_path, elsewhere, dirs_exist_ok=True))
    assert len(open_data(DataConfig(name="cifar10", root=str(elsewhere), download=True)).train) == 3


# Folders and tars


def folder(root: Path, **values: object) -> DataConfig:
    return DataConfig(name="folder", root=str(root), **values)  # type: ignore[arg-type]


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
    assert "2 files left out that are no images" in caplog.text


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
    refused(folder(root), "no validation images in data.root .*: it needs val/ with a folder a class")
    shutil.rmtree(root / "train")
    refused(folder(root), "no training images in data.root .*: it needs train/")
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
    part = data.train.take(np.array([7, 2]))
    assert part.name(0) == data.train.name(7) and part[0][1] == 1


def test_missing_or_broken_tars_are_named(image_folder: MakeFolder) -> None:
    root = image_folder()
    refused(
        DataConfig(name="tar", root=str(root)), "no training images in data.root .*: it needs train.tar, or a folder"
    )
    (root / "train.tar").write_bytes(b"no tar")
    (root / "val.tar").write_bytes(b"no tar")
    refused(DataConfig(name="tar", root=str(root)), "data: 'tar' cannot open '.*train.tar': ")
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
    refused(DataConfig(name=f"hfds/{tmp_path}/none", root=str(tmp_path)), "data: 'hfds/.*none' cannot open 'train': ")
    name = hugging_face(tmp_path / "set", [0, 1])
    config = DataConfig(name=name, root=str(tmp_path / "cache"), validation_split="test")
    refused(config, "data: 'hfds/.*' cannot open 'test': ")


OPAQUE = np.repeat([[0] * 20 + [255] * 33], 41, axis=0).astype(np.uint8)
"""The left of an image of 53 x 41 is transparent."""


def web_dataset(root: Path, labels: list[int]) -> DataConfig:
    pytest.importorskip("webdataset")
    for shard in range(2):
        with tarfile.open(root / f"shard-{shard}.tar", "w") as tar:
            for number, label in list(enumerate(labels))[shard::2]:
                file = io.BytesIO()
                image = piece(number)
                image.putalpha(Image.fromarray(OPAQUE))
                image.save(file, "PNG")
                for kind, content in (("png", file.getvalue()), ("cls", str(label).encode())):
                    member = tarfile.TarInfo(f"{number:03d}.{kind}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    split = f"shard-{{0..1}}.tar|{len(labels)}"
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


# Parts


def test_parts_are_nested_balanced_and_pinned() -> None:
    labels = np.repeat(np.arange(7), [3, 11, 40, 41, 97, 100, 1])
    images = MemoryImages(np.zeros((len(labels), 2, 2), dtype=np.uint8), labels)
    counts = np.bincount(labels)
    smaller: set[int] = set()
    for fraction in (0.1, 0.5, 0.8, 1.0):
        part = balanced_part(images, fraction)
        assert smaller <= set(part.tolist()) and len(set(part.tolist())) == len(part)
        taken = np.bincount(labels[part], minlength=7)
        assert (np.abs(taken - fraction * counts) <= 1).all() and taken.min() >= 1
        smaller = set(part.tolist())
    assert len(smaller) == len(labels)
    assert balanced_part(images, 0.1).tolist() == PINNED_PART
    assert balanced_part(images, 0.1, "another ").tolist() != PINNED_PART


def test_parts_go_by_path_not_by_place_or_order(image_folder: MakeFolder, tmp_path: Path) -> None:
    root = image_folder(train=11)

    def names(data: ImageData) -> set[str]:
        return {data.train.name(index) for index in range(len(data.train))}

    here = names(open_data(folder(root, fraction=0.4)))
    moved = tmp_path / "elsewhere"
    shutil.copytree(root, moved)
    assert names(open_data(folder(moved, fraction=0.4))) == here and len(here) == 8
    (moved / "train/china/0 new.png").write_bytes((moved / "train/china/china 0.png").read_bytes())
    assert len(names(open_data(folder(moved, fraction=0.4))) & here) >= 7


def test_a_part_keeps_image_and_label_together() -> None:
    whole = MemoryImages(np.arange(20 * 4, dtype=np.uint8).reshape(20, 2, 2), np.arange(20) % 3)
    part = whole.take(np.array([3, 19, 4]))
    assert [part[index][1] for index in range(3)] == [0, 1, 1]
    assert part.name(1) == "image 19" and part.identity == [b"3", b"19", b"4"]
    assert torch.equal(part.gather(np.array([1])), whole.gather(np.array([19])))


def test_printable() -> None:
    assert printable("a b\n\x1b[31m\udcff é") == "a b\\n\\x1b[31m\\udcff é"
