"""From what a recipe calls the data to two data sets and the names of the classes, or one line on what is wrong."""

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from tarfile import TarInfo
from typing import Any

import numpy as np
from timm.data import create_dataset
from timm.data.readers.reader_image_in_tar import ReaderImageInTar
from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension

from contagg.data.config import DataConfig
from contagg.data.datasets import (
    FolderImages,
    ImageData,
    ImageStream,
    LabelledImages,
    ReaderImages,
    balanced_part,
    check_labels,
)
from contagg.data.named import cifar10, digits, fashion_mnist
from contagg.errors import UserError, printable

logger = logging.getLogger(__name__)

_EXTENSIONS = (*IMG_EXTENSIONS, ".gif")
_SPLIT_NAMES = {"training": ("train",), "validation": ("val", "validation")}


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
        "folder": _folder,
        "tar": _tar,
    }
    data = named.get(config.name, _hugging_face if not config.is_stream else _stream)(config)
    if config.classes not in (None, len(data.class_names)):
        raise UserError(f"data.classes is {config.classes}, but {config.name!r} has {len(data.class_names)} classes")
    if len(data.class_names) < 2:
        raise UserError(f"data: {config.name!r} has but one class, {data.class_names[0]!r}")
    if config.is_stream:
        return data
    for split, images in (("training", data.train), ("validation", data.validation)):
        if not len(images):
            raise UserError(f"data: {config.name!r} has no {split} images")
        check_labels(images.labels, len(data.class_names), f"the {split} split of {config.name!r}")
    if config.fraction < 1:
        data = replace(data, train=data.train.take(balanced_part(data.train, config.fraction)))
    return data


def _folder(config: DataConfig) -> ImageData:
    return _two_splits(config, _is_folder, _folder_split)


def _is_folder(root: Path, name: str) -> Path | None:
    return root / name if (root / name).is_dir() else None


def _folder_split(root: Path) -> tuple[LabelledImages, tuple[str, ...]]:
    """Images in the class folders of `root`, however deep; classes in the order of their names."""
    class_names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not class_names:
        raise UserError(f"data: {root} has no class folders")
    paths: list[str] = []
    labels: list[int] = []
    left_out: list[str] = []
    for label, class_name in enumerate(class_names):
        files = sorted(
            Path(folder, file).relative_to(root).as_posix()
            for folder, _, files in os.walk(root / class_name, followlinks=True)
            for file in files
        )
        images = [file for file in files if _is_image(file)]
        if not images:
            raise UserError(f"data: the class folder {root / printable(class_name)} has no images ({_allowed()})")
        paths += images
        labels += [label] * len(images)
        left_out += [file for file in files if not _is_image(file)]
    if left_out:
        logger.warning(
            "%s: %d files left out that are no images, such as %s", root, len(left_out), printable(left_out[0])
        )
    encoded = np.array([path.encode("utf-8", "surrogateescape") for path in paths])
    return FolderImages(root, encoded, np.array(labels)), tuple(printable(name) for name in class_names)


def _is_image(path: str) -> bool:
    return has_file_allowed_extension(path, _EXTENSIONS) and not PurePosixPath(path).name.startswith(".")


def _allowed() -> str:
    return ", ".join(_EXTENSIONS)


def _tar(config: DataConfig) -> ImageData:
    return _two_splits(config, _is_tar, partial(_tar_split, config))


def _is_tar(root: Path, name: str) -> Path | None:
    if (root / f"{name}.tar").is_file():
        return root / f"{name}.tar"
    return root / name if any((root / name).glob("*.tar")) else None


def _tar_split(config: DataConfig, path: Path) -> tuple[LabelledImages, tuple[str, ...]]:
    # An open tar file must not be shared by forked workers, who would move each other's position: keep none open.
    reader = _opened(config, str(path), ReaderImageInTar, root=str(path), cache_tarfiles=False)
    # timm would call the class of ./cat.png `.`, whatever the tar; so classes are read off the paths here.
    paths = [_path_in_tar(*sample) for sample in reader.samples]
    class_names = sorted({place.parent.name for place in paths})
    if class_names[0] == "":
        raise UserError(f"data: {path} has images in no class folder, such as {printable(min(map(str, paths)))}")
    labels = np.searchsorted(class_names, [place.parent.name for place in paths])
    order = np.array(sorted(range(len(paths)), key=paths.__getitem__))  # not as the file system lists the tars
    images = ReaderImages(reader, [place.as_posix() for place in paths], labels)
    return images.take(order), tuple(printable(name) for name in class_names)


def _path_in_tar(member: TarInfo, tar: str | None, tar_within: TarInfo | None) -> PurePosixPath:
    """An image's path, a tar in a folder or in a tar standing for a folder of its name."""
    outer = [PurePosixPath(name).with_suffix("") for name in (tar, tar_within and tar_within.name) if name]
    return PurePosixPath(*outer, member.path)


def _two_splits(
    config: DataConfig,
    find: Callable[[Path, str], Path | None],
    read: Callable[[Path], tuple[LabelledImages, tuple[str, ...]]],
) -> ImageData:
    """Both splits below one root, each by the first of its names that exists. Nothing stands in for a missing one."""
    root = config.folder()
    read_splits = []
    for split, names in _SPLIT_NAMES.items():
        path = next((path for path in (find(root, name) for name in names) if path), None)
        if path is None:
            kind = ".tar, or a folder of that name with tars," if config.name == "tar" else "/ with a folder a class"
            raise UserError(f"data: no {split} images in data.root {root}: it needs {names[0]}{kind}")
        read_splits.append(read(path))
    (train, train_classes), (validation, validation_classes) = read_splits
    if train_classes != validation_classes:
        raise UserError(f"data: classes differ in {root}: {_difference(train_classes, validation_classes)}")
    return ImageData(train=train, validation=validation, class_names=train_classes)


def _difference(train: tuple[str, ...], validation: tuple[str, ...]) -> str:
    missing = {"validation": set(train) - set(validation), "training": set(validation) - set(train)}
    parts = [f"{split} lacks {', '.join(sorted(names)[:5])}" for split, names in missing.items() if names]
    return "; ".join(parts)


def _hugging_face(config: DataConfig) -> ImageData:
    splits = []
    for split in (config.train_split, config.validation_split):
        reader, labels = _opened(config, split, _reader_and_labels, **_timm_arguments(config, split))
        images = ReaderImages(reader, [f"{split} row {row}" for row in range(len(labels))], labels)
        splits.append((images, _class_names(config, reader.class_to_idx)))
    (train, class_names), (validation, validation_classes) = splits
    if class_names != validation_classes:
        raise UserError(f"data: classes differ in {config.name!r}: {_difference(class_names, validation_classes)}")
    return ImageData(train=train, validation=validation, class_names=class_names)


def _reader_and_labels(**arguments: Any) -> tuple[Any, np.ndarray]:
    reader = create_dataset(**arguments).reader
    labels = [-1 if label is None else label for label in reader.iter_targets()]
    return reader, np.array(labels, dtype=np.int64)


def _stream(config: DataConfig) -> ImageData:
    """Undecoded by timm (input_img_mode=""), so that our own reading of modes holds. The loaders set the batch size."""
    train, validation = (
        _opened(
            config,
            split,
            create_dataset,
            is_training=training,
            input_img_mode="",
            **_timm_arguments(config, split),
        )
        for training, split in ((True, config.train_split), (False, config.validation_split))
    )
    class_names = _class_names(config, getattr(train.reader, "class_to_idx", {}))
    train, validation = (ImageStream(source, len(class_names)) for source in (train, validation))
    return ImageData(train=train, validation=validation, class_names=class_names)


def _timm_arguments(config: DataConfig, split: str) -> dict[str, Any]:
    keys = {"input_key": config.image_key, "target_key": config.label_key}
    return {"name": config.name, "root": config.root, "split": split, **keys}


def _class_names(config: DataConfig, class_to_index: dict[str, int]) -> tuple[str, ...]:
    """The classes' names as the data give them, or their numbers where data.classes says how many there are."""
    if class_to_index:
        return tuple(sorted(class_to_index, key=class_to_index.__getitem__))
    if config.classes is None:
        raise UserError(f"data.classes must be given, since {config.name!r} does not name its classes")
    return tuple(str(number) for number in range(config.classes))


def _opened(config: DataConfig, what: str, make: Callable[..., Any], **arguments: Any) -> Any:
    """timm's data set or reader; whatever it or the library behind raises is told in one line."""
    try:
        return make(**arguments)
    except Exception as error:
        reason = ": ".join((type(error).__name__, *str(error).splitlines()[:1]))
        hint = "; pip install contagg[data]" if isinstance(error, ImportError) else ""
        raise UserError(f"data: {config.name!r} cannot open {what!r}: {reason}{hint}") from error
