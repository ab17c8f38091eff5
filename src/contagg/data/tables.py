"""Labelled images in tables: parquet files, and what tables of Hugging Face's data sets have in common with them.

Labels are numbers, whose names stand in the table, or texts, which are the names.
"""

import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contagg.data.config import DataConfig
from contagg.data.datasets import EncodedImages, Read
from contagg.data.folders import Split
from contagg.errors import UserError, printable, shortened

logger = logging.getLogger(__name__)

_MEMORY_SHARE = 0.4  # of the machine's, that the tables of one of two splits may fill
_ROWS = 256  # at a time: one image repeated by a dictionary takes its size for each


class ColumnSource:
    """Images in a column of bytes, or of {bytes, path} where bytes may be missing.

    Args:
        roots: Resolved folders in which a path may lie, relative to the first: a table may name any file there is.
    """

    def __init__(self, column: pa.ChunkedArray, roots: Sequence[Path]) -> None:
        self.column, self.roots = column, roots

    def __call__(self, number: int, name: bytes) -> bytes | Path | None:
        """A row's image. ValueError for a path beyond the roots."""
        value = self.column[number].as_py()
        if not isinstance(value, dict) or value.get("bytes") is not None:
            return value["bytes"] if isinstance(value, dict) else value
        if not value.get("path"):
            return None
        path = (self.roots[0] / value["path"]).resolve()
        if not any(path.is_relative_to(root) for root in self.roots):
            raise ValueError(f"its path {shortened(printable(value['path']), 200)!r} lies outside of {self.roots[0]}")
        return path


def read_parquet(files: Sequence[Path], config: DataConfig, read: Read) -> Split:
    """Images and labels from parquet files of one schema, held in memory.

    Raises:
        UserError: for a file or a column that is not as it should be, or more than the memory holds.
    """
    image_key, label_key = config.image_key or "image", config.label_key or "label"
    tables = []
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    left = int(_MEMORY_SHARE * memory)
    try:
        for file in files:
            known = pq.read_schema(file)
            for key in (image_key, label_key):
                if key not in known.names:
                    role = "data.image_key" if key == image_key else "data.label_key"
                    raise UserError(f"data: {file} has no column {key!r}, but {known.names}: {role} says which to take")
            tables.append(_read_within(left, file, [image_key, label_key]))
            left -= tables[-1].nbytes
        table = pa.concat_tables(tables)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"data: {files[0].parent} has no whole parquet files of one schema: {error}") from error
    column = table.column(image_key)
    names = np.array([f"{file.name} row {row}".encode() for file, part in zip(files, tables, strict=True)
                      for row in range(part.num_rows)])  # fmt: skip
    labels, class_names = labels_of(table.column(label_key), _named_classes(files, label_key), config)
    roots = [config.folder().resolve()]
    return EncodedImages(ColumnSource(column, roots), names, labels, sizes_of(column, image_key), read), class_names


def _read_within(left: int, path: Path, columns: list[str]) -> pa.Table:
    """Columns of a file. UserError beyond `left` bytes: some KB of parquet may stand for any number, undeclared."""
    batches = []
    with pq.ParquetFile(path) as file:
        groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
        parts = [group.column(number) for group in groups for number in range(group.num_columns)]
        declared = sum(part.total_uncompressed_size for part in parts if part.path_in_schema.split(".")[0] in columns)
        for batch in file.iter_batches(_ROWS, columns=columns) if declared <= left else ():
            batches.append(batch)
            left -= batch.nbytes
            if left < 0:
                break
        if declared > left or left < 0:
            raise UserError(
                f"data: {path} holds, with the files before it, more images than {_MEMORY_SHARE:.0%} of the memory: "
                "data.name hfds/FOLDER reads them from the disk"
            )
        return pa.Table.from_batches(batches) if batches else file.read(columns=columns)


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
