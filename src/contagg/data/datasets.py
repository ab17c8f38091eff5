"""Labelled images by number, in memory or in their files' formats. And balanced parts of them.

Each data set gives (image, label) by index, raises UnreadableSampleError for an image it cannot read, and has
  labels          int64, one an image;
  name(index)     how to call an image in a message;
  identity        bytes, one an image, that stay the same on every machine;
  content(index)  its bytes, as stored;
  listing()       what its fingerprint is made of;
  subset(which)   the same data set with only these images, in this order.
"""

import os
import unicodedata
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from contagg.data.config import DataConfig
from contagg.data.decode import UnreadableSampleError, open_regular, read_image
from contagg.data.fingerprint import Fingerprint, Listing
from contagg.errors import UserError, plural, printable

Source = Callable[[int, bytes], bytes | Path | None]
Read = Callable[[bytes | Path, str], Image.Image]


class LabelledImages(Protocol):
    """What the module says of a data set."""

    labels: np.ndarray

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> tuple[Image.Image, int]: ...
    def name(self, index: int) -> str: ...
    @property
    def identity(self) -> Sequence[bytes]: ...
    def content(self, index: int) -> bytes: ...
    def listing(self) -> Listing: ...
    def subset(self, which: np.ndarray) -> Self: ...


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

    def keep_decoded(self, gigabytes: float) -> None:
        """They are in memory already."""

    def gather(self, indices: np.ndarray) -> torch.Tensor:
        """Many images at once: uint8, (B, H, W) or (B, H, W, 3)."""
        return self._images[torch.from_numpy(indices)]

    def name(self, index: int) -> str:
        return f"image {self._numbers[index]}"

    @property
    def identity(self) -> Sequence[bytes]:
        return [str(number).encode() for number in self._numbers]

    def content(self, index: int) -> bytes:
        return self._images[index].numpy().tobytes()

    def listing(self) -> Listing:
        hashes = [blake2b(self.content(index), digest_size=8).digest() for index in range(len(self))]
        return Listing(self.identity, self.labels, np.frombuffer(b"".join(hashes), dtype="<u8"))

    def subset(self, which: np.ndarray) -> "MemoryImages":
        return MemoryImages(self._images[torch.from_numpy(which)].numpy(), self.labels[which], self._numbers[which])


class _Cache:
    """Decoded images by number, the first that come, in so many bytes."""

    def __init__(self, size: int) -> None:
        self._room, self._kept = size, dict[int, Image.Image]()

    def get(self, number: int, decode: Callable[[], Image.Image]) -> Image.Image:
        if number in self._kept:
            return self._kept[number].copy()  # a transform may draw on what it is given
        image = decode()
        size = image.width * image.height * len(image.getbands())
        if size <= self._room:
            self._room -= size
            self._kept[number] = image.copy()
        return image


class EncodedImages(Dataset[tuple[Image.Image, int]]):
    """Images in their files' formats, wherever they lie.

    Args:
        source: (number, name) -> the path of an image's file, or its content; None for a place without an image.
        names: How images are called and told apart, such as paths, as bytes of NumPy's S type, since names need not be
            text; (N,). A list of millions of strings would be copied into each worker bit by bit, as reading one
            counts its references.
        labels: (N,).
        sizes: In bytes; (N,).
        read: Decodes, see `contagg.data.decode.read_image`.
    """

    def __init__(self, source: Source, names: np.ndarray, labels: np.ndarray, sizes: np.ndarray, read: Read) -> None:
        self.labels = np.asarray(labels, dtype=np.int64)
        self._source, self._names, self._sizes, self._read = source, names, sizes, read
        self._numbers = np.arange(len(names))
        self._cache = _Cache(0)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        decode = partial(self._decoded, index)
        return self._cache.get(int(self._numbers[index]), decode), int(self.labels[index])

    def keep_decoded(self, gigabytes: float) -> None:
        """Decode each image once and keep it, in each process that reads, up to so many GiB."""
        self._cache = _Cache(int(gigabytes * 2**30))

    def _decoded(self, index: int) -> Image.Image:
        return self._read(self._encoded(index), self.name(index))

    def content(self, index: int) -> bytes:
        """An image's file, undecoded. UnreadableSampleError where it cannot be had."""
        encoded = self._encoded(index)
        if isinstance(encoded, bytes):
            return encoded
        try:
            with open_regular(encoded) as file:
                return file.read()
        except (OSError, ValueError) as error:
            raise UnreadableSampleError(self.name(index), str(error)) from error

    def _encoded(self, index: int) -> bytes | Path:
        try:
            encoded = self._source(int(self._numbers[index]), self._names[index])
        except Exception as error:  # readers of stored tables raise their own
            raise UnreadableSampleError(self.name(index), str(error)) from error
        if encoded is None:
            raise UnreadableSampleError(self.name(index), "there is no image")
        return encoded

    def name(self, index: int) -> str:
        return printable(self._names[index].decode("utf-8", "surrogateescape"))

    @property
    def identity(self) -> Sequence[bytes]:
        return [name if name.isascii() else _composed(name) for name in self._names.tolist()]

    def listing(self) -> Listing:
        return Listing(self.identity, self.labels, self._sizes)

    def subset(self, which: np.ndarray) -> "EncodedImages":
        part = copy(self)
        part.labels, part._names = self.labels[which], self._names[which]
        part._sizes, part._numbers = self._sizes[which], self._numbers[which]
        return part


def _composed(name: bytes) -> bytes:
    """A name as other systems than Macs write it, so that a copy of the data is the same data."""
    return unicodedata.normalize("NFC", os.fsdecode(name)).encode("utf-8", "surrogateescape")


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

    def fingerprint(self) -> Fingerprint:
        """Of which data these are, for a run that goes on."""
        return Fingerprint(self.class_names, training=self.train.listing(), validation=self.validation.listing())


def decoder(config: DataConfig) -> Read:
    """`read_image` within a recipe's limits."""
    return partial(read_image, max_pixels=config.max_pixels, bit_depth=config.bit_depth)


def check_labels(labels: np.ndarray, classes: int, where: str) -> None:
    """UserError if a label lies outside 0 .. classes - 1."""
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise UserError(
            f"data: {where} has the label {wrong[0]}, but with {plural(classes, 'class', 'classes')} labels "
            f"are 0 to {classes - 1}"
        )


def match_classes(
    images: LabelledImages, class_names: Sequence[str], known: Sequence[str], source: str
) -> tuple[LabelledImages, str]:
    """Images labelled as `known` numbers its classes, by the classes' names, and a line on what does not match.

    Args:
        images: With labels that number `class_names`.
        known: The classes that a network tells apart.
        source: How to call the data in an error.

    Raises:
        UserError: no class has the name of a known one, or the images are a stream of other classes.
    """
    if tuple(class_names) == tuple(known):
        return images, ""
    unknown = [name for name in class_names if name not in known]
    missing = [name for name in known if name not in class_names]
    if len(unknown) == len(class_names) or not hasattr(images, "subset"):
        reason = "none is among them" if hasattr(images, "subset") else "those of a stream must agree"
        raise UserError(
            f"the network tells {plural(len(known), 'class', 'classes')} apart ({_few(known)}), {source} "
            f"have {len(class_names)} ({_few(class_names)}): {reason}"
        )
    number = np.array([known.index(name) if name in known else -1 for name in class_names])
    labels = number[images.labels]
    matched = images.subset(np.flatnonzero(labels >= 0))
    matched.labels = labels[labels >= 0]
    parts = []
    if missing:
        parts.append(f"{len(missing)} of its {len(known)} classes have no images in {source}: {_few(missing)}")
    if unknown:
        left_out = int((labels < 0).sum())
        parts.append(f"{plural(left_out, 'image')} of classes that it does not know left out: {_few(unknown)}")
    return matched, "; ".join(parts)


def _few(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (" ..." if len(names) > most else "")


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
