"""Labelled images in tables: parquet files, and Hugging Face's data sets. Nothing that they say is run or fetched.

Labels are numbers, whose names stand in the table, or texts, which are the names.
"""

import json
import logging
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from contagg.data.config import DataConfig
from contagg.data.datasets import EncodedImages, Read
from contagg.data.folders import Split
from contagg.errors import UserError, printable

logger = logging.getLogger(__name__)

_MEMORY_SHARE = 0.6  # of the machine's, that tables may fill


class ColumnSource:
    """Images in a column of bytes, or of {bytes, path} where bytes may be missing."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.column = column

    def __call__(self, number: int, name: bytes) -> bytes | Path | None:
        """A row's image."""
        value = self.column[number].as_py()
        if isinstance(value, dict):
            path = value.get("path")
            return value["bytes"] if value.get("bytes") is not None else Path(path) if path else None
        return value


def read_parquet(files: Sequence[Path], config: DataConfig, read: Read) -> Split:
    """Images and labels from parquet files of one schema, held in memory.

    Raises:
        UserError: for a file or a column that is not as it should be, or more than the memory holds.
    """
    image_key, label_key = config.image_key or "image", config.label_key or "label"
    tables = []
    try:
        _check_memory(files)
        for file in files:
            known = pq.read_schema(file)
            for key in (image_key, label_key):
                if key not in known.names:
                    role = "data.image_key" if key == image_key else "data.label_key"
                    raise UserError(f"data: {file} has no column {key!r}, but {known.names}: {role} says which to take")
            tables.append(pq.ParquetFile(file).read(columns=[image_key, label_key]))
        table = pa.concat_tables(tables)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"data: {files[0].parent} has no whole parquet files of one schema: {error}") from error
    column = table.column(image_key)
    names = np.array([f"{file.name} row {row}".encode() for file, part in zip(files, tables, strict=True)
                      for row in range(part.num_rows)])  # fmt: skip
    labels, class_names = labels_of(table.column(label_key), _named_classes(files, label_key), config)
    return EncodedImages(ColumnSource(column), names, labels, sizes_of(column, image_key), read), class_names


def _check_memory(files: Sequence[Path]) -> None:
    size = sum(file.stat().st_size for file in files)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > _MEMORY_SHARE * memory:
        raise UserError(
            f"data: {files[0].parent} holds {size / 1e9:.0f} GB of parquet, too much for a memory of "
            f"{memory / 1e9:.0f} GB: data.name hfds/FOLDER reads them from the disk"
        )


def sizes_of(column: pa.ChunkedArray, key: str) -> np.ndarray:
    """Of each image in bytes, 0 for none; UserError for a column that holds no images."""
    if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        column = pc.struct_field(column, "bytes")
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        raise UserError(f"data: the column {key!r} holds {column.type}, not the bytes of images; see data.image_key")
    return pc.fill_null(pc.binary_length(column), 0).to_numpy().astype(np.int64)


def labels_of(
    column: pa.ChunkedArray, class_names: Sequence[str] | None, config: DataConfig
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Numbers (N,), -1 where there is none, and the classes' names: known ones, the texts themselves, or numbers."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        texts = column.cast(pa.string())
        names = sorted({text for text in texts.unique().to_pylist() if text is not None})
        found = pc.fill_null(pc.index_in(texts, value_set=pa.array(names, pa.string())), -1)
    elif pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        found = pc.fill_null(column.cast(pa.int64()), -1)
        known = class_names is not None or config.classes is not None
        count = config.classes if known else 1 + (pc.max(found).as_py() or 0)
        names = list(class_names) if class_names is not None else [str(number) for number in range(count or 0)]
    else:
        raise UserError(f"data: labels are whole numbers or texts, not {column.type}; see data.label_key")
    return found.to_numpy().astype(np.int64), tuple(printable(name) for name in names)


def _named_classes(files: Sequence[Path], label_key: str) -> list[str] | None:
    """From the schema: `classes`, one a line or as JSON, or as `datasets` writes them; or from classes.txt beside."""
    found = [names_in(pq.read_schema(file), label_key) for file in files]
    if any(names != found[0] for names in found):
        raise UserError(f"data: the parquet files in {files[0].parent} name their classes differently")
    beside = files[0].parent / "classes.txt"
    if found[0] is None and beside.is_file():
        return _lines(beside.read_bytes())
    return found[0]


def names_in(schema: pa.Schema, label_key: str) -> list[str] | None:
    """The names of classes in a schema's metadata, by their numbers; None where there are none."""
    metadata = schema.metadata or {}
    try:
        if b"classes" in metadata:
            return _lines(metadata[b"classes"])
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        names = features.get(label_key, {}).get("names")
    except (ValueError, AttributeError) as error:
        raise UserError(f"data: a parquet file's schema names its classes in no known way: {error}") from error
    return None if names is None else [str(name) for name in names]


def _lines(content: bytes) -> list[str]:
    text = content.decode("utf-8")
    names = json.loads(text) if text.lstrip().startswith("[") else text.splitlines()
    return [str(name) for name in names]


_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def check_name(name: str) -> None:
    """UserError unless a data set's name is a local folder, or one on the hub: no address, no other protocol.

    A local folder's README may say where files lie, and `datasets` would fetch them from anywhere.
    """
    if not Path(name).is_dir():
        if not _HUB_NAME.fullmatch(name):
            raise UserError(f"data.name: {name!r} is neither a folder nor OWNER/NAME of the hub")
        return
    for file in (Path(name, "README.md"), Path(name, ".huggingface.yaml")):
        if file.is_file():
            text = file.read_text(errors="replace")
            front = text.split("---", 2)[1] if file.suffix == ".md" and text.startswith("---") else text
            if file.suffix == ".md" and front is text:
                continue
            try:
                said = yaml.safe_load(front)
            except (yaml.YAMLError, RecursionError) as error:
                raise UserError(f"data: {file} is no YAML: {type(error).__name__}") from error
            places = said.get("configs", said.get("data_files")) if isinstance(said, dict) else None
            for place in _texts(places):
                if "://" in place or "::" in place or place.startswith(("/", "~")) or ".." in Path(place).parts:
                    raise UserError(f"data: {file} says that data lie at {place!r}, outside of {name}")


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for item in items for text in _texts(item)]


def read_hugging_face(config: DataConfig, name: str, split: str, read: Read) -> Split:
    """A split of a data set of Hugging Face's `datasets`, in its own form on the disk, images undecoded.

    Raises:
        UserError: whatever `datasets` raises, in one line.
    """
    check_name(name)
    image_key, label_key = config.image_key or "image", config.label_key or "label"

    def load() -> Any:
        import datasets

        builder = datasets.load_dataset_builder(name, cache_dir=config.root)
        builder.download_and_prepare()
        data = builder.as_dataset(split=split).cast_column(image_key, datasets.Image(decode=False))
        class_names = getattr(data.features[label_key], "names", None)
        _check_names_in_files(builder, split, class_names, label_key)
        return data.data, class_names

    data, class_names = opened(config, split, load)
    column = data.column(image_key)
    if class_names is None and config.classes is None and pa.types.is_integer(data.column(label_key).type):
        raise UserError(f"data.classes must be given, since {config.name!r} does not name its classes")
    labels, names = labels_of(data.column(label_key), class_names, config)
    called = np.array([f"{split} row {row}".encode() for row in range(data.num_rows)])
    return EncodedImages(ColumnSource(column), called, labels, sizes_of(column, image_key), read), names


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


def difference(known: Sequence[str], other: Sequence[str], of: str = "validation") -> str:
    """In words, how a split's classes differ from those of training."""
    if sorted(known) == sorted(other):
        place = next(place for place, pair in enumerate(zip(known, other, strict=True)) if pair[0] != pair[1])
        return f"they are in another order: class {place} is {known[place]!r} in training, {other[place]!r} in {of}"
    missing = {of: set(known) - set(other), "training": set(other) - set(known)}
    parts = [f"{split} lacks {', '.join(sorted(names)[:5])}" for split, names in missing.items() if names]
    return "; ".join(parts)


def opened(config: DataConfig, what: str, make: Callable[[], Any]) -> Any:
    """What `make` gives; whatever it or the library behind raises is told in one line."""
    try:
        return make()
    except UserError:
        raise
    except Exception as error:
        reason = ": ".join((type(error).__name__, *str(error).splitlines()[:1]))
        hint = "; pip install contagg[data]" if isinstance(error, ImportError) else ""
        raise UserError(f"data: {config.name!r} cannot open {what!r}: {reason}{hint}") from error
