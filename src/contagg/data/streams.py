"""Images that come in a stream, so that none can be asked for by number: which part who reads, in which order.

What cannot be read is named, counted over all workers of a process, and too much of it an error. Here too: Hugging
Face's and TensorFlow's data sets read as they arrive, whose exact resume is not promised. For shards see `shards`.
"""

import logging
import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import get_worker_info

from contagg.data.config import DataConfig
from contagg.data.datasets import Read, check_labels, decoder
from contagg.data.decode import UnreadableSampleError
from contagg.data.fingerprint import Listing
from contagg.data.hugging_face import builder_of
from contagg.data.sampling import hashed
from contagg.data.tables import opened
from contagg.errors import UserError, plural

logger = logging.getLogger(__name__)

SHUFFLED, SHUFFLED_FIRST = 8192, 2048  # samples among which one is drawn, and how many are there before the first
_TFDS_NAME = re.compile(r"\w+(/[\w.-]+)?(:\d+\.\d+\.\d+)?")
BROKEN, TORN, _READ, _ENDED = range(4)  # images, files of samples, samples, and whether all were read once

Sample = tuple[bytes | Image.Image, Any, str]
"""An image, undecoded where that can be had, its label as stored, and what to call it."""


@dataclass(frozen=True)
class Reading:
    """Which part of a stream one of `readers` (processes x workers) reads; in training with a seed, for its order.

    Where a reader comes to its end before the epoch does, it reads again.
    """

    rank: int = 0
    world_size: int = 1
    worker: int = 0
    workers: int = 1
    seed: int | None = None
    epoch: int = 0
    again: int = 0

    @property
    def reader(self) -> int:
        """Its number among all."""
        return self.rank * self.workers + self.worker

    @property
    def readers(self) -> int:
        """All processes' workers."""
        return self.world_size * self.workers


class Count:
    """What all workers of a process have met in an epoch of a stream.

    Args:
        workers: Processes that read; 0 reads in this one.
        allowed_fraction: What `check` allows.
    """

    def __init__(self, workers: int, allowed_fraction: float) -> None:
        self.allowed_fraction = allowed_fraction
        self._told = False
        # A row for each worker, so that none is lost: see BROKEN and so on.
        self._counts = torch.zeros(max(workers, 1), 4, dtype=torch.long).share_memory_()

    def start(self) -> None:
        """Count from zero."""
        self._counts.zero_()

    def _add(self, column: int) -> None:
        worker = get_worker_info()
        self._counts[worker.id if worker else 0, column] += 1

    def read(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """One pass over the samples, counted."""
        for sample in samples:
            self._add(_READ)
            yield sample
        self._add(_ENDED)

    def note(self, error: UnreadableSampleError, column: int) -> bool:
        """Name and count one that cannot be read. True goes on, as WebDataset's handlers say it."""
        logger.warning("left out an image that cannot be read: %s", error)
        self._add(column)
        return True

    @property
    def samples(self) -> int:
        """How many this process has read."""
        return int(self._counts[:, _READ].sum())

    def tell_surplus(self, read: int, images: int) -> None:
        """Say once that there are more than the split's `images`: an epoch leaves the others out."""
        if read > images and not self._told:
            self._told = True
            logger.warning(
                "the stream holds more than the %d images that its split says: an epoch is of as many; mend the number "
                "in data.train_split or data.validation_split if it is wrong",
                images,
            )

    def check(self, images: int, all_here: bool) -> None:
        """UserError once too many of an epoch's `images` are unreadable, or lost: `all_here` if no other process reads.

        A sample counts as lost once every worker has come to the end of its shards.
        """
        broken, torn, read, _ = self._counts.sum(0).tolist()
        if all_here:
            self.tell_surplus(read, images)
        at_end = all_here and bool((self._counts[:, _ENDED] > 0).all())
        lost = max(0, images - read - torn) if at_end else 0
        if (count := broken + torn + lost) > self.allowed_fraction * images:
            missing = f" ({lost} of them are not there)" if lost else ""
            raise UserError(
                f"{count} of {plural(images, 'image')} of the stream cannot be read{missing}, more than "
                f"data.max_corrupt_fraction {self.allowed_fraction} allows; the lines above name them"
            )


@dataclass(frozen=True)
class ImageStream:
    """Images of a stream.

    Attributes:
        source: Gives the samples of a reading, once.
        length: How many images there are.
        classes: How many there are; a label beyond raises UserError.
        read: Decodes, see `contagg.data.decode.read_image`.
        listing: What is known without reading: shards and their sizes.
        shards: How many there are; None where it does not matter.
    """

    source: Callable[[Reading, Count], Iterator[Sample]]
    length: int
    classes: int
    read: Read
    known: Listing
    shards: int | None = None

    def __len__(self) -> int:
        return self.length

    def listing(self) -> Listing:
        """What its fingerprint is made of."""
        return self.known

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        return self.images(Reading(), Count(0, 1.0))

    def images(self, reading: Reading, counts: Count) -> Iterator[tuple[Image.Image, int]]:
        """One pass over a reading's images, in training in another order each epoch and pass, without broken ones."""
        samples: Iterator[Sample] = counts.read(self.source(reading, counts))
        if reading.seed is not None:
            key = int(hashed(reading.seed, reading.epoch, reading.reader, reading.again)[0])
            samples = _shuffled(samples, random.Random(key))
        for encoded, label, name in samples:
            try:
                image = encoded if isinstance(encoded, Image.Image) else self.read(encoded, name)
                label = _whole_number(label, name)
            except UnreadableSampleError as error:
                counts.note(error, BROKEN)
                continue
            check_labels(np.array([label]), self.classes, "the stream")
            yield image, label


def _whole_number(label: Any, name: str) -> int:
    if label is None:
        raise UnreadableSampleError(name, "it has no label")
    try:
        return int(label)
    except (ValueError, TypeError, OverflowError) as error:
        raise UnreadableSampleError(name, f"its label {label!r} is no whole number") from error


def _shuffled(samples: Iterator[Sample], rng: random.Random) -> Iterator[Sample]:
    """In another order: each drawn from those that wait, of which there are ever more up to SHUFFLED."""
    waiting: list[Sample] = []
    for sample in samples:
        waiting.append(sample)
        if len(waiting) < SHUFFLED and (another := next(samples, None)) is not None:
            waiting.append(another)
        if len(waiting) >= SHUFFLED_FIRST:
            yield _drawn(waiting, rng)
    while waiting:
        yield _drawn(waiting, rng)


def _drawn(waiting: list[Sample], rng: random.Random) -> Sample:
    place = rng.randrange(len(waiting))
    waiting[place], waiting[-1] = waiting[-1], waiting[place]
    return waiting.pop()


def stream_hugging_face(config: DataConfig, key: str) -> tuple[ImageStream, tuple[str, ...]]:
    import datasets

    name, split = config.name.partition("/")[2], getattr(config, key)
    image_key, label_key = config.image_key or "image", config.label_key or "label"

    def load() -> Any:
        builder = builder_of(name, config)
        data = builder.as_streaming_dataset(split=split).cast_column(image_key, datasets.Image(decode=False))
        return data, builder.info.splits[split].num_examples, getattr(builder.info.features[label_key], "names", None)

    data, length, names = opened(config, split, load)
    source = partial(_read_hugging_face, data, split, image_key, label_key)
    return _of_library(config, source, length, names, f"{name} {split}")


def _read_hugging_face(
    data: Any, split: str, image_key: str, label_key: str, reading: Reading, counts: Count
) -> Iterator[Sample]:
    from datasets.distributed import split_dataset_by_node

    # Within a process `datasets` deals out shards to the workers itself.
    part = split_dataset_by_node(data, rank=reading.rank, world_size=reading.world_size)
    for number, row in enumerate(part):
        image = row[image_key]
        yield image["bytes"] or b"", row[label_key], f"{split}, image {number} of reader {reading.reader}"


def stream_tensorflow(config: DataConfig, key: str) -> tuple[ImageStream, tuple[str, ...]]:
    name, split = config.name.partition("/")[2], getattr(config, key)
    if not _TFDS_NAME.fullmatch(name):
        raise UserError(f"data.name: {name!r} is no NAME, NAME/CONFIG or NAME:1.2.3 of tensorflow-datasets")

    def load() -> Any:
        from timm.data.readers.reader_factory import create_reader

        keys = {"input_key": config.image_key, "target_key": config.label_key}
        return create_reader(f"tfds/{name}", root=config.root, split=split, **keys)

    reader = opened(config, split, load)
    names = sorted(reader.class_to_idx, key=reader.class_to_idx.__getitem__) or None
    source = partial(_read_tensorflow, reader, split)
    return _of_library(config, source, reader.num_samples, names, f"{name} {split}")


def _read_tensorflow(reader: Any, split: str, reading: Reading, counts: Count) -> Iterator[Sample]:
    for number, (image, label) in enumerate(reader):  # timm's reader deals out to processes and workers itself
        yield image, label, f"{split}, image {number} of reader {reading.reader}"


def _of_library(
    config: DataConfig, source: Any, length: int, names: list[str] | None, called: str
) -> tuple[ImageStream, tuple[str, ...]]:
    if names is None and config.classes is None:
        raise UserError(f"data.classes must be given, since {config.name!r} does not name its classes")
    class_names = tuple(names or (str(number) for number in range(config.classes or 0)))
    known = Listing([called.encode()], np.zeros(1, np.int64), np.array([length]))
    return ImageStream(source, length, len(class_names), decoder(config), known), class_names
