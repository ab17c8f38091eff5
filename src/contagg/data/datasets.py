"""Labelled images by number: in memory, in folders, or behind one of timm's readers. And balanced parts of them.

Each data set gives (image, label) by index, raises UnreadableSampleError for an image it cannot read, and has
  labels       int64, one an image;
  name(index)  how to call an image in a message;
  identity     bytes, one an image, that stay the same on every machine;
  take(which)  the same data set with only these images, in this order.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset

from contagg.data.decode import as_grey_or_rgb, read_image
from contagg.errors import UserError, printable


class LabelledImages(Protocol):
    """What the module says of a data set."""

    labels: np.ndarray

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> tuple[Image.Image, int]: ...
    def name(self, index: int) -> str: ...
    @property
    def identity(self) -> Sequence[bytes]: ...
    def take(self, which: np.ndarray) -> Self: ...


class MemoryImages(Dataset[tuple[Image.Image, int]]):
    """Images of one size held in memory.

    Args:
        images: uint8, (N, H, W) grey or (N, H, W, 3).
        labels: int, (N,).
        numbers: How the images are numbered; from 0 unless given.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, numbers: np.ndarray | None = None) -> None:
        self._images = torch.from_numpy(np.array(images, order="C"))  # a writable copy
        self.labels = np.asarray(labels, dtype=np.int64)
        self._numbers = np.arange(len(images)) if numbers is None else numbers

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self._images[index].numpy()), int(self.labels[index])

    def gather(self, indices: np.ndarray) -> torch.Tensor:
        """Many images at once: uint8, (B, H, W) or (B, H, W, 3)."""
        return self._images[torch.from_numpy(indices)]

    def name(self, index: int) -> str:
        return f"image {self._numbers[index]}"

    @property
    def identity(self) -> Sequence[bytes]:
        return [str(number).encode() for number in self._numbers]

    def take(self, which: np.ndarray) -> "MemoryImages":
        return MemoryImages(self._images[torch.from_numpy(which)].numpy(), self.labels[which], self._numbers[which])


class FolderImages(Dataset[tuple[Image.Image, int]]):
    """Image files below `root`.

    Args:
        paths: Relative to `root`, as bytes, since names need not be text; (N,) of NumPy's S type. A list of millions of
            strings would be copied into each worker bit by bit, as reading one counts its references.
    """

    def __init__(self, root: Path, paths: np.ndarray, labels: np.ndarray) -> None:
        self._root, self._paths = root, paths
        self.labels = labels

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path = self._root / _decoded(self._paths[index])
        return read_image(path, self.name(index)), int(self.labels[index])

    def name(self, index: int) -> str:
        return printable(_decoded(self._paths[index]))

    @property
    def identity(self) -> Sequence[bytes]:
        return self._paths.tolist()

    def take(self, which: np.ndarray) -> "FolderImages":
        return FolderImages(self._root, self._paths[which], self.labels[which])


class ReaderImages(Dataset[tuple[Image.Image, int]]):
    """Images behind one of timm's readers, which opens an image's bytes by index.

    Args:
        names: Of all the reader's images; how they are called, hashed and ordered.
        labels: Of all the reader's images.
    """

    def __init__(self, reader: Any, names: Sequence[str], labels: np.ndarray) -> None:
        self._reader, self._names = reader, names
        self._which = np.arange(len(labels))
        self.labels = labels

    def __len__(self) -> int:
        return len(self._which)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        source, _ = self._reader[int(self._which[index])]
        with source:
            return read_image(source, self.name(index)), int(self.labels[index])

    def name(self, index: int) -> str:
        return printable(self._names[int(self._which[index])])

    @property
    def identity(self) -> Sequence[bytes]:
        return [self._names[index].encode("utf-8", "surrogateescape") for index in self._which.tolist()]

    def take(self, which: np.ndarray) -> "ReaderImages":
        part = copy(self)
        part._which, part.labels = self._which[which], self.labels[which]
        return part


class ImageStream(IterableDataset[tuple[Image.Image, int]]):
    """Images that come in a stream, from timm's readers of WebDataset, Hugging Face or TensorFlow data.

    A broken image is left out; the loaders name and count those of WebDataset. Exact resume is not promised.

    Args:
        source: timm's IterableImageDataset.
        classes: How many there are; a label beyond raises UserError.
    """

    def __init__(self, source: Any, classes: int) -> None:
        self.source, self.classes = source, classes

    def __len__(self) -> int:
        return len(self.source)

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        for image, label in self.source:
            check_labels(np.array([-1 if label is None else label]), self.classes, "the stream")
            yield as_grey_or_rgb(image), int(label)


@dataclass(frozen=True, kw_only=True)
class ImageData:
    """What to train on and what to judge by.

    Attributes:
        train, validation: Map-style data sets of (PIL image in mode L or RGB, label), see above; or ImageStreams.
        class_names: One a label.
    """

    train: Any
    validation: Any
    class_names: tuple[str, ...]


def check_labels(labels: np.ndarray, classes: int, where: str) -> None:
    """UserError if a label lies outside 0 .. classes - 1."""
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise UserError(
            f"data: {where} has the label {wrong[0]}, but with {classes} classes labels are 0 to {classes - 1}"
        )


def balanced_part(images: LabelledImages, fraction: float, purpose: str = "") -> np.ndarray:
    """Indices, ascending, of the part of each class, to the nearest image, whose identities hash lowest.

    A smaller fraction's part lies within a larger one's. At least one image of a class is taken. Another `purpose`
    takes another part.
    """
    hashes = [blake2b(purpose.encode() + identity, digest_size=8).digest() for identity in images.identity]
    order = np.lexsort((np.frombuffer(b"".join(hashes), dtype=">u8"), images.labels))
    counts = np.unique(images.labels, return_counts=True)[1]
    starts = np.cumsum(counts) - counts
    sizes = np.maximum(1, np.floor(counts * fraction + 0.5).astype(int))
    return np.sort(np.concatenate([order[start : start + size] for start, size in zip(starts, sizes, strict=True)]))


def _decoded(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")
