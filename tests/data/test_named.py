"""Digits, Fashion-MNIST and CIFAR-10 are what they should be, and what is wrong with them is one line."""

import gzip
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from opening import pixels, refused
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10

from contagg.data.config import DataConfig
from contagg.data.named import DEBIAN_FASHION_MNIST, shifted
from contagg.data.sources import open_data


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
        ("train-images-idx3-ubyte.gz", gzip.compress(bytes(9999))[:10] + b"\xff" * 30, "no whole idx file"),
        ("train-images-idx3-ubyte.gz", gzip.compress(bytes(1 << 27), 1), "it holds more than 67,108,864 bytes"),
        ("train-labels-idx1-ubyte.gz", gzip.compress(b"\0\0\x08\x01\0\0\0\x01\0"), "5 train images, but 1 label"),
        ("train-labels-idx1-ubyte.gz", gzip.compress(b"\0\0\x08\x01\0\0\0\x05\0\0\0\0\x0a"), "the label 10, but"),
    ],
    # Named: the bytes of a gzip file hold the time, and xdist's processes must agree on a test's name.
    ids=[
        "missing",
        "empty",
        "header only",
        "wrong magic",
        "cut",
        "corrupt",
        "bomb",
        "too few labels",
        "label out of range",
    ],
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


# Images moved and mirrored

SIDE, MOST = 21, 4


def dots(count: int) -> np.ndarray:
    images = np.zeros((count, SIDE, SIDE), np.uint8)
    images[:, 8, 7] = 255
    return images


def test_images_move_by_up_to_so_many_pixels_and_half_are_mirrored() -> None:
    where = np.argwhere(shifted(dots(500), MOST, 0))
    assert len(where) == 500  # no dot is lost
    rows, columns = where[:, 1] - 8, where[:, 2]
    assert set(rows) == set(range(-MOST, MOST + 1))
    assert columns.min() == 7 - MOST and columns.max() == SIDE - 1 - 7 + MOST
    assert 130 < np.sum(columns > 7 + MOST) < 200  # mirrored to 13 and moved by -1 or more: 6 of 9 of a half


def test_the_same_each_time_whatever_else_there_is_and_another_in_another_split() -> None:
    many, few = shifted(dots(50), MOST, 0), shifted(dots(20), MOST, 0)
    assert np.array_equal(many[:20], few)
    assert not np.array_equal(few, shifted(dots(20), MOST, 1))
    assert few.dtype == np.uint8


def test_what_leaves_the_image_is_lost_and_what_comes_in_is_black() -> None:
    moved = shifted(np.full((200, SIDE, SIDE), 7, np.uint8), MOST, 0)
    black = (moved == 0).sum(axis=(1, 2))
    assert black.min() == 0 and black.max() == SIDE**2 - (SIDE - MOST) ** 2
