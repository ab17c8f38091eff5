"""From what a recipe calls the data to two data sets and the names of the classes, or one line on what is wrong."""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from contagg.data.config import DataConfig
from contagg.data.datasets import ImageData, balanced_part, check_labels, decoder
from contagg.data.decode import EXTENSIONS, UnreadableSampleError
from contagg.data.folders import Split, is_hidden, read_flat, read_folder, read_tars
from contagg.data.hugging_face import read_hugging_face
from contagg.data.named import cifar10, digits, fashion_mnist
from contagg.data.shards import open_shards
from contagg.data.streams import stream_hugging_face, stream_tensorflow
from contagg.data.tables import difference, read_parquet
from contagg.errors import UserError, plural

logger = logging.getLogger(__name__)

FILES = ("folder", "tar", "parquet")
"""Of data.name: what lies in files below data.root, in splits or not."""

SPLIT_NAMES = {"training": ("train", "training"), "validation": ("val", "valid", "validation", "test")}
"""What folders, tars and parquet files of the splits are called; the first that is there is taken."""


def open_data(config: DataConfig) -> ImageData:
    """Open the data that a recipe names, and check all that can be checked without reading the images.

    Raises:
        UserError: for a missing root, split, class or package, classes that differ between the splits, labels beyond
            the classes, or a `data.classes` that is not what the data have.
    """
    named: dict[str, Callable[[DataConfig], ImageData]] = {
        "digits": digits,
        "fashion-mnist": fashion_mnist,
        "shifted-fashion-mnist": partial(fashion_mnist, most_shift=6),
        "cifar10": cifar10,
        **dict.fromkeys(FILES, _files),
    }
    data = named.get(config.name, _of_split_names)(config)
    if config.classes not in (None, len(data.class_names)):
        raise UserError(
            f"data.classes is {config.classes}, but {config.name!r} has "
            f"{plural(len(data.class_names), 'class', 'classes')}"
        )
    if len(data.class_names) < 2:
        raise UserError(f"data: {config.name!r} has but one class, {data.class_names[0]!r}")
    if config.is_stream:
        return data
    for split, images in (("training", data.train), ("validation", data.validation)):
        if not len(images):
            raise UserError(f"data: {config.name!r} has no {split} images")
        check_labels(images.labels, len(data.class_names), f"the {split} split of {config.name!r}")
        if config.cache_gb:
            images.keep_decoded(config.cache_gb)
    _warn_of_equal(data, config.name)
    if config.fraction < 1:
        data = replace(data, train=data.train.subset(balanced_part(data.train, config.fraction)))
    return data


def open_unlabelled(config: DataConfig) -> ImageData:
    """The training images alone, whatever their classes: what learning without labels needs. No validation images.

    Of a folder all images below train/, or below data.root where there is none, in classes' folders or not.

    Raises:
        UserError: there are none, or data.root is missing.
    """
    if config.name not in FILES:
        data = open_data(config)
        return replace(data, validation=data.validation.subset(np.array([], dtype=np.int64)))
    places = _called(config, *SPLIT_NAMES["training"]) or _called(config)
    if not places:
        raise UserError(f"data: there is no *.{config.name} in data.root {config.folder()}")
    flat = config.name == "folder"
    train, class_names = (read_flat(places[0], decoder(config)), ("images",)) if flat else _read(config, places)
    if config.cache_gb:
        train.keep_decoded(config.cache_gb)
    if config.fraction < 1:
        train = train.subset(balanced_part(train, config.fraction))
    none = train.subset(np.array([], dtype=np.int64))
    return ImageData(train=train, validation=none, class_names=class_names)


def open_splits(config: DataConfig) -> dict[str, Split]:
    """Each split that is there, by the name of its folder, without comparing them; `images` where there are none.

    Raises:
        UserError: nothing is there, or images come in a stream.
    """
    if config.is_stream:
        raise UserError(f"{config.name!r} is a stream: its images cannot be asked for by number")
    if config.name not in FILES:
        data = open_data(config)
        return {split: (images, data.class_names) for split, images in vars(data).items() if split != "class_names"}
    found = {name: places for names in SPLIT_NAMES.values() for name in names if (places := _called(config, name))}
    if found:
        return {name: _read(config, places) for name, places in found.items()}
    root, places = config.folder(), _called(config)
    if not places:
        raise UserError(f"data: there is no *.{config.name} in {root}")
    if config.name == "folder" and not any(entry.is_dir() and not is_hidden(entry.name) for entry in root.iterdir()):
        return {"images": (read_flat(root, decoder(config)), ("images",))}
    return {"images": _read(config, places)}


def open_validation(config: DataConfig, alone: bool = False) -> Split:
    """The images to judge by, and the names of their classes; no training images need be there.

    Args:
        config: Which data.
        alone: Take all images of a folder, tar or parquet that has no splits, instead of the part that training holds
            out of it: see `has_splits`.

    Raises:
        UserError: as `open_data`, but for what is about training images.
    """
    places: list[Path] = []
    if config.name in FILES:
        training, places = _splits(config)
        if alone and not training:
            places = places or _called(config)
    if not places:
        data = open_data(config)
        return data.validation, data.class_names
    images, class_names = _read_whole(config, places)
    check_labels(images.labels, len(class_names), f"the validation split in {config.folder()}")
    return images, class_names


def has_splits(config: DataConfig) -> bool:
    """Whether the images to judge by lie apart from those to learn from, so that none is chosen by a hash."""
    return config.name not in FILES or bool(_splits(config)[1])


def _splits(config: DataConfig) -> tuple[list[Path], list[Path]]:
    """Where the images of training and of validation lie below data.root."""
    return _called(config, *SPLIT_NAMES["training"]), _called(config, *SPLIT_NAMES["validation"])


def _called(config: DataConfig, *names: str) -> list[Path]:
    """Where a split below data.root lies, by the first of its names that is there; without names, what lies in root."""
    find = {"folder": _folders_called, "tar": _tars_called, "parquet": _parquet_called}[config.name]
    return next((found for name in names or (None,) if (found := find(config.folder(), name))), [])


def _files(config: DataConfig) -> ImageData:
    """Both splits below data.root, or what there is of it, of which a part is held out."""
    root, (training, validation) = config.folder(), _splits(config)
    if not training and validation:
        raise UserError(f"data: no training images in data.root {root}: it needs train/ beside {validation[0].name}")
    if not validation:
        return _held_out(config, root, training or _called(config))
    train, validation_images = _read_whole(config, training), _read_whole(config, validation)
    if train[1] != validation_images[1]:
        raise UserError(f"data: classes differ in {root}: {difference(train[1], validation_images[1])}")
    return ImageData(train=train[0], validation=validation_images[0], class_names=train[1])


def _folders_called(root: Path, name: str | None) -> list[Path]:
    folder = root / name if name else root
    return [folder] if folder.is_dir() else []


def _tars_called(root: Path, name: str | None) -> list[Path]:
    if name and (root / f"{name}.tar").is_file():
        return [root / f"{name}.tar"]
    return _visible(root / name if name else root, "*.tar")


def _parquet_called(root: Path, name: str | None) -> list[Path]:
    if name is None:
        return _visible(root, "*.parquet")
    patterns = (f"{name}.parquet", f"{name}-*.parquet", f"data/{name}-*.parquet", f"{name}/*.parquet")
    return next((found for pattern in patterns if (found := _visible(root, pattern))), [])


def _visible(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_file() and not is_hidden(path.name))


def _read(config: DataConfig, places: Sequence[Path]) -> Split:
    read = decoder(config)
    if config.name == "parquet":
        return read_parquet(places, config, read)
    return read_tars(places, read) if config.name == "tar" else read_folder(places[0], read)


def _read_whole(config: DataConfig, places: Sequence[Path]) -> Split:
    """As `_read`. UserError for a class folder without images: what is to be told apart must be there."""
    images, class_names = _read(config, places)
    if config.name == "folder":
        empty = np.setdiff1d(np.arange(len(class_names)), images.labels)
        if len(empty):
            folder, more = places[0] / class_names[empty[0]], f", nor have {len(empty) - 1} more" * (len(empty) > 1)
            raise UserError(f"data: the class folder {folder} has no images ({', '.join(EXTENSIONS)}){more}")
    return images, class_names


def _held_out(config: DataConfig, root: Path, places: Sequence[Path]) -> ImageData:
    """The one split rule where there is no validation split: so many of each class, by a hash of their names."""
    if not places:
        raise UserError(f"data: there is no *.{config.name} in data.root {root}, nor train*.{config.name}")
    images, class_names = _read_whole(config, places)
    part = balanced_part(images, config.validation_fraction, purpose="held out ")
    kept = np.setdiff1d(np.arange(len(images)), part)
    emptied = np.setdiff1d(images.labels, images.labels[kept])
    if len(emptied):
        count = int((images.labels == emptied[0]).sum())
        raise UserError(
            f"data: the class {class_names[emptied[0]]!r} in {root} has {plural(count, 'image')}: too few to hold out "
            f"data.validation_fraction {config.validation_fraction:g} of them for validation"
        )
    logger.warning(
        "%s has no %s: %d of its %s, chosen in each class by a hash of their names, are for validation "
        "(data.validation_fraction %g)",
        root,
        " or ".join(SPLIT_NAMES["validation"]),
        len(part),
        plural(len(images), "image"),
        config.validation_fraction,
    )
    return ImageData(train=images.subset(kept), validation=images.subset(part), class_names=class_names)


def _warn_of_equal(data: ImageData, name: str) -> None:
    """Name validation images that are the training images: figures of them say nothing."""
    train, validation = data.train.listing(), data.validation.listing()
    if np.array_equal(train.labels, validation.labels) and np.array_equal(train.contents, validation.contents):
        ends = (0, len(train.labels) - 1)
        with suppress(UnreadableSampleError):  # it will be named when its turn comes
            if all(data.train.content(index) == data.validation.content(index) for index in ends):
                logger.warning("data: the %d validation images of %r are its training images", len(train.labels), name)


def _of_split_names(config: DataConfig) -> ImageData:
    """What a library or WebDataset reads, by the names of both splits."""
    readers: dict[str, Callable[[DataConfig, str], tuple[Any, tuple[str, ...]]]] = {
        "hfds": read_hugging_face,
        "hfids": stream_hugging_face,
        "tfds": stream_tensorflow,
        "wds": open_shards,
    }
    read = readers[config.name.partition("/")[0].lower()]
    (train, class_names), (validation, others) = (read(config, key) for key in ("train_split", "validation_split"))
    if class_names != others:
        raise UserError(f"data: classes differ in {config.name!r}: {difference(class_names, others)}")
    return ImageData(train=train, validation=validation, class_names=class_names)
