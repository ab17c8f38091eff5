"""Data sets of Hugging Face's `datasets`: on the hub, or in a folder, of which nothing is fetched or run."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contagg.data.config import DataConfig
from contagg.data.datasets import EncodedImages, decoder
from contagg.data.decode import read_regular
from contagg.data.folders import Split
from contagg.data.tables import ColumnSource, difference, labels_of, names_in, opened, sizes_of
from contagg.errors import UserError
from contagg.files import is_folder
from contagg.yaml_file import parse_yaml

logger = logging.getLogger(__name__)

_LONGEST_README = 1 << 20
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_OF_FILES = frozenset({"file", "local", "dir", "zip", "tar", "gzip", "bz2", "xz", "lz4", "zstd"})
"""Protocols of fsspec that stay on this machine."""


def builder_of(name: str, config: DataConfig) -> Any:
    """`datasets`' builder of a local folder, or of a data set on the hub: no address, no other protocol.

    A local folder's README may say where files lie, and `datasets` would fetch them from anywhere, already to list
    them. So what it says is looked at before, nothing is opened but files meanwhile, and where they lie after.

    Raises:
        UserError: the name is neither, or the folder's files lie elsewhere.
    """
    import datasets

    folder = Path(name)
    if not is_folder(folder):
        if not _HUB_NAME.fullmatch(name):
            raise UserError(f"data.name: {name!r} is neither a folder nor OWNER/NAME of the hub")
        return datasets.load_dataset_builder(name, cache_dir=config.root)
    for file in (folder / "README.md", folder / ".huggingface.yaml"):
        for place in _places_in(file):
            if "://" in place or "::" in place or place.startswith(("/", "~")) or ".." in Path(place).parts:
                raise UserError(f"data: {file} says that data lie at {place!r}, outside of {name}")
    with _files_only(name):
        builder = datasets.load_dataset_builder(name, cache_dir=config.root)
    for files in (builder.config.data_files or {}).values():
        for place in map(str, files):
            if not Path(os.path.normpath(place)).is_relative_to(folder.resolve()):
                raise UserError(f"data: the data of {name} lie at {place!r}, outside of it")
    return builder


def _places_in(file: Path) -> list[str]:
    """All texts by which a folder says where its data lie, read from the very part that `datasets` reads."""
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    if not file.exists():
        return []
    try:
        text = read_regular(file, _LONGEST_README).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"data: {file} cannot be read: {error}") from error
    if file.suffix == ".md":
        found = REGEX_YAML_BLOCK.search(text)
        text = found[2] if found else ""
    said = parse_yaml(text, file)
    return _texts([said.get("configs"), said.get("data_files")]) if isinstance(said, dict) else []


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for item in items for text in _texts(item)]


@contextmanager
def _files_only(name: str) -> Iterator[None]:
    """Meanwhile fsspec, through which `datasets` opens everything, knows no protocol of a network."""
    modules = [import_module(module) for module in ("fsspec.registry", "fsspec.core")]
    known = modules[0].get_filesystem_class

    def of_files(protocol: str | None) -> Any:
        if protocol and protocol not in _OF_FILES:
            raise UserError(f"data: the folder {name} says that data lie at an address of {protocol!r}, outside of it")
        return known(protocol)

    try:
        for module in modules:
            setattr(module, "get_filesystem_class", of_files)  # noqa: B010
        yield
    finally:
        for module in modules:
            setattr(module, "get_filesystem_class", known)  # noqa: B010


def read_hugging_face(config: DataConfig, key: str) -> Split:
    """The split that data.`key` names of a data set of Hugging Face's `datasets`, in its own form on the disk.

    Raises:
        UserError: whatever `datasets` raises, in one line.
    """
    name, split = config.name.partition("/")[2], getattr(config, key)
    image_key, label_key = config.image_key or "image", config.label_key or "label"

    def load() -> Any:
        import datasets

        builder = builder_of(name, config)
        with _files_only(name) if is_folder(name) else nullcontext():
            builder.download_and_prepare()
        data = builder.as_dataset(split=split).cast_column(image_key, datasets.Image(decode=False))
        class_names = getattr(data.features[label_key], "names", None)
        _check_names_in_files(builder, split, class_names, label_key)
        return data.data, class_names, _roots_of(name, config)

    data, class_names, roots = opened(config, split, load)
    column = data.column(image_key)
    if class_names is None and config.classes is None and pa.types.is_integer(data.column(label_key).type):
        raise UserError(f"data.classes must be given, since {config.name!r} does not name its classes")
    labels, names = labels_of(data.column(label_key), class_names, config)
    called = np.array([f"{split} row {row}".encode() for row in range(data.num_rows)])
    source, sizes = ColumnSource(column, roots), sizes_of(column, image_key)
    return EncodedImages(source, called, labels, sizes, decoder(config)), names


def _roots_of(name: str, config: DataConfig) -> list[Path]:
    """Where the files of a data set may lie: the folder, or what was fetched."""
    import datasets
    from huggingface_hub.constants import HF_HUB_CACHE

    fetched = [config.root or datasets.config.HF_DATASETS_CACHE, datasets.config.HF_DATASETS_CACHE, HF_HUB_CACHE]
    return [Path(place).resolve() for place in [*([name] if is_folder(name) else []), *fetched]]


def _check_names_in_files(builder: Any, split: str, class_names: list[str] | None, label_key: str) -> None:
    """UserError if a split's own parquet file names classes in another order: `datasets` takes the first split's."""
    import fsspec

    for file in [str(file) for file in (builder.config.data_files or {}).get(split, [])][:1]:
        if file.endswith(".parquet"):
            try:
                with fsspec.open(file) as content:
                    names = names_in(pq.read_schema(content), label_key)
            except OSError as error:  # of the hub, without a network, from what lies in the cache
                logger.warning("%s: not looked at whether its classes are in the common order: %s", file, error)
                continue
            if names not in (None, class_names):
                raise UserError(f"data: classes differ in {file}: {difference(class_names or (), names or ())}")
