"""Small data sets known by name, held in memory."""

import gzip
import zlib
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10, FashionMNIST

from contagg.data.config import DataConfig
from contagg.data.datasets import ImageData, MemoryImages, balanced_part
from contagg.data.sampling import hashed, uniform
from contagg.errors import UserError, plural

_LONGEST_IDX = 1 << 26  # bytes: 60,000 images take 47 million, and some KB may unpack to any number
DEBIAN_FASHION_MNIST = "/usr/share/datasets/fashion-mnist"
"""Where Debian's package dataset-fashion-mnist puts its files."""


def digits(config: DataConfig) -> ImageData:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 grey; always the same fifth of each class is held out."""
    known = load_digits()
    images = MemoryImages(np.round(known.images * (255 / 16)).astype(np.uint8), known.target)
    held_out = balanced_part(images, 0.2, purpose="digits held out ")
    kept = np.setdiff1d(np.arange(len(images)), held_out)
    return ImageData(
        train=images.subset(kept),
        validation=images.subset(held_out),
        class_names=tuple(str(name) for name in known.target_names),
    )


def fashion_mnist(config: DataConfig, most_shift: int = 0) -> ImageData:
    """70,000 pieces of clothing, 28 x 28 grey, from the idx files in data.root or where Debian puts them.

    With `most_shift`, each image is moved by up to as many pixels, see `shifted`.
    """
    root = config.folder(default=DEBIAN_FASHION_MNIST)
    splits = []
    for number, split in enumerate(("train", "t10k")):
        images, labels = _idx(root, f"{split}-images-idx3-ubyte", 3), _idx(root, f"{split}-labels-idx1-ubyte", 1)
        if len(images) != len(labels):
            raise UserError(
                f"data: {root} holds {plural(len(images), f'{split} image')}, but {plural(len(labels), 'label')}"
            )
        splits.append(MemoryImages(shifted(images, most_shift, number) if most_shift else images, labels))
    return ImageData(train=splits[0], validation=splits[1], class_names=tuple(FashionMNIST.classes))


def shifted(images: np.ndarray, most: int, split: int) -> np.ndarray:
    """Each image (N, H, W) moved by up to `most` pixels each way, filled with 0, and half of them mirrored.

    On centred Fashion-MNIST the nearest neighbours of raw pixels are hard to beat, as every garment fills the same
    place. A function of an image's number and its split's alone, so that every run and machine has the same.
    """
    height, width = images.shape[1:]
    keys = hashed(split, np.arange(len(images)))
    images = np.where(uniform(keys, 0)[:, None, None] < 0.5, images[:, :, ::-1], images)
    padded = np.pad(images, ((0, 0), (most, most), (most, most)))
    top, left = ((uniform(keys, draw) * (2 * most + 1)).astype(int) for draw in (1, 2))
    rows, columns = top[:, None] + np.arange(height), left[:, None] + np.arange(width)
    return padded[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]]


def _idx(root: Path, name: str, dimensions: int) -> np.ndarray:
    """The uint8 array in an idx file: a magic number, the sizes, the values; zipped or not."""
    path = next((path for path in (root / name, root / f"{name}.gz") if path.is_file()), None)
    if path is None:
        raise UserError(f"data: no {name}.gz in {root}")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(_LONGEST_IDX + 1)
        if len(content) > _LONGEST_IDX:
            raise ValueError(f"it holds more than {_LONGEST_IDX:,} bytes")
        header = np.frombuffer(content, ">u4", count=1 + dimensions).astype(int)
        if header[0] != 0x0800 + dimensions:
            raise ValueError(f"it begins with {header[0]:#x}")
        return np.frombuffer(content, np.uint8, offset=4 * len(header)).reshape(header[1:])
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"data: {path} is no whole idx file of {dimensions} dimensions: {error}") from error


def cifar10(config: DataConfig) -> ImageData:
    """60,000 small photographs, 32 x 32, from the cifar-10-batches-py in data.root; fetched only if asked for."""
    root = config.folder(must_exist=not config.download)
    try:
        train, validation = (CIFAR10(root, train=train, download=config.download) for train in (True, False))
    except RuntimeError as error:
        raise UserError(
            f"data.root {root} holds no whole cifar-10-batches-py: put it there, or set data.download"
        ) from error
    return ImageData(
        train=MemoryImages(train.data, np.array(train.targets)),
        validation=MemoryImages(validation.data, np.array(validation.targets)),
        class_names=tuple(train.classes),
    )
