"""WebDataset's shards: tars of samples, files of one key together. Opened here, as files below data.root.

WebDataset's own opener would run `pipe:COMMAND` in a shell and fetch addresses; here it only reads what is open.
"""

import json
import logging
import math
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from contagg.data.config import DataConfig
from contagg.data.datasets import decoder
from contagg.data.decode import EXTENSIONS, UnreadableSampleError, open_regular, read_regular
from contagg.data.fingerprint import Listing
from contagg.data.sampling import hashed
from contagg.data.streams import TORN, Count, ImageStream, Reading, Sample
from contagg.errors import UserError, plural, printable
from contagg.files import is_file

logger = logging.getLogger(__name__)

_MOST_SHARDS = 1_000_000
_SHARD_NAME = re.compile(r"[\w+=,.-]+(/[\w+=,.-]+)*")
_END_OF_TAR = 1024  # bytes, of zeros
_LARGEST_MEMBER = 1 << 28  # bytes; above the largest image that is decoded, uncompressed
_LONGEST_INFO = 1 << 26
_COMPRESSED = (b"\x1f\x8b\x08", b"\xfd7zXZ", b"\x5d\x00\x00\x80", b"\x28\xb5\x2f\xfd")  # gzip, xz, lzma, zstd


def open_shards(config: DataConfig, key: str) -> tuple[ImageStream, tuple[str, ...]]:
    """The stream of the split that data.`key` names, and the names of its classes: their numbers.

    Raises:
        UserError: for a name that is no plain file below data.root, a missing shard, or too many that are cut off.
    """
    if config.classes is None:
        raise UserError(f"data.classes must be given, since {config.name!r} does not name its classes")
    root = config.folder()
    names, length = _shard_names(root, key, getattr(config, key))
    paths = [root / name for name in names]
    missing = [name for name, path in zip(names, paths, strict=True) if not is_file(path)]
    if missing:
        raise UserError(
            f"data.{key}: {len(missing)} of {plural(len(names), 'shard')} not in {root}, such as {missing[0]}"
        )
    cut = [name for name, path in zip(names, paths, strict=True) if _is_cut(path)]
    if len(cut) > config.max_corrupt_fraction * len(names):
        raise UserError(
            f"data.{key}: {len(cut)} of {plural(len(names), 'shard')} in {root} are empty or cut off, "
            f"such as {cut[0]}, more than data.max_corrupt_fraction {config.max_corrupt_fraction} allows"
        )
    for name in cut:
        logger.warning("the shard %s is empty or cut off", root / name)
    sizes = np.array([path.stat().st_size for path in paths])
    known = Listing([name.encode() for name in names], np.zeros(len(names), np.int64), sizes)
    source = partial(_read_shards, paths, config.image_key, config.label_key)
    stream = ImageStream(source, length, config.classes, decoder(config), known, shards=len(paths))
    return stream, tuple(str(number) for number in range(config.classes))


def _shard_names(root: Path, key: str, split: str) -> tuple[list[str], int]:
    """Of `a-{000..099}.tar|12345`, or a split that the folder's `_info.json` names: shards and how many images."""
    pattern, _, number = split.partition("|")
    if not pattern.endswith(".tar"):
        names, length = _described(root / "_info.json", key, split)
    else:
        if not number.isdecimal() or len(number) > 12 or not int(number):
            raise UserError(f"data.{key} {split!r} must end in | and the number of images, such as '{pattern}|128116'")
        names, length = _expanded(pattern), int(number)
    if not names or len(names) > _MOST_SHARDS:
        raise UserError(f"data.{key} {split!r} must name 1 to {_MOST_SHARDS:,} shards")
    for name in names:
        if not _SHARD_NAME.fullmatch(name) or ".." in name.split("/"):
            raise UserError(f"data.{key}: {name!r} is no plain name of a shard below data.root")
    return names, length


def _described(info: Path, key: str, split: str) -> tuple[list[str], int]:
    try:
        said = json.loads(read_regular(info, _LONGEST_INFO))["splits"][split]
        names, length = said["filenames"], said["num_samples"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise TypeError("filenames")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"data.{key} {split!r} must name shards and how many images they hold, such as "
            f"'train-{{000..099}}.tar|128116', or a split that {info} describes"
        ) from error
    if type(length) is not int or not 0 < length < 10**12:
        raise UserError(f"data.{key} {split!r}: {info} says num_samples {length!r:.40}, which is no number of images")
    return names, length


def _expanded(pattern: str) -> list[str]:
    """`{08..11}` as 08, 09, 10, 11, wherever it stands; none for an empty range or more than there may be."""
    parts = re.split(r"\{(\d{1,9})\.\.(\d{1,9})\}", pattern)
    texts, firsts, lasts = parts[::3], parts[1::3], parts[2::3]
    ranges = [range(int(first), int(last) + 1) for first, last in zip(firsts, lasts, strict=True)]
    if not 1 <= math.prod(map(len, ranges)) <= _MOST_SHARDS:
        return []
    widths = [len(first) for first in firsts]
    return [
        texts[0] + "".join(f"{n:0{width}d}{text}" for n, width, text in zip(numbers, widths, texts[1:], strict=True))
        for numbers in product(*ranges)
    ]


def _is_cut(path: Path) -> bool:
    """Whether a tar lacks the zeros that end it. UserError for what unpacks to any size, and what is no file."""
    try:
        with open_regular(path) as file:
            start = file.read(10)
            size = file.seek(0, 2)
            file.seek(max(0, size - _END_OF_TAR))
            end = file.read()
    except (OSError, ValueError) as error:
        raise UserError(f"data: the shard {path} cannot be read: {error}") from error
    if start.startswith(_COMPRESSED) or (start[:3] == b"BZh" and start[4:] == b"1AY&SY"):
        raise UserError(f"data: the shard {path} is compressed, and could unpack to any size: unpack it to a plain tar")
    return size < _END_OF_TAR or end.strip(b"\0") != b""


def _read_shards(
    paths: list[Path], image_key: str | None, label_key: str | None, reading: Reading, counts: Count
) -> Iterator[Sample]:
    """The samples of every so many-th shard; of shards dealt out anew in training."""
    order = np.arange(len(paths))
    if reading.seed is not None:  # the same for all readers, so that each shard has one
        order = np.argsort(hashed(reading.seed, reading.epoch, order), kind="stable")
    for number in order[reading.reader :: reading.readers]:
        for sample in _samples(paths[number], counts):
            name = printable(f"{paths[number].name}/{sample['__key__']}")
            yield _image_of(sample, image_key), _label_of(sample, label_key, name), name


def _samples(path: Path, counts: Count) -> Iterator[Mapping[str, Any]]:
    """The files of a shard, those of one key together. What WebDataset would pass over is named and counted."""
    from webdataset.tariterators import group_by_keys

    def note(error: Exception) -> bool:
        reason = str(error.args[0]) if error.args else type(error).__name__
        return counts.note(UnreadableSampleError(path.name, reason), TORN)

    with open_regular(path) as file:
        yield from group_by_keys(_members(file, path.name, note), handler=note)


def _members(file: IO[bytes], name: str, note: Callable[[Exception], bool]) -> Iterator[dict[str, Any]]:
    """As WebDataset's `tar_file_expander`, which unpacks whatever is packed and takes holes for zeros of any number."""
    try:
        with tarfile.open(fileobj=file, mode="r|") as tar:
            for member in tar:
                tar.members.clear()  # type: ignore[attr-defined]  # else a million headers would stay
                if not member.isreg() or re.match(r"__[^/]*__($|/)", member.name):
                    continue
                if member.issparse() or member.size > _LARGEST_MEMBER:
                    note(ValueError(f"{printable(member.name)} has holes or more than {_LARGEST_MEMBER:,} bytes"))
                    continue
                yield {"fname": member.name, "data": cast(IO[bytes], tar.extractfile(member)).read(), "__url__": name}
        yield {}  # so that samples of two shards are not taken for one
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        note(error)


def _image_of(sample: Mapping[str, Any], image_key: str | None) -> bytes:
    keys = image_key.split(";") if image_key else [ending[1:] for ending in EXTENSIONS]
    return next((sample[key] for key in keys if key in sample), b"")


def _label_of(sample: Mapping[str, Any], label_key: str | None, name: str) -> Any:
    if label_key is None:
        return sample.get("cls")
    try:
        return json.loads(sample["json"])[label_key]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"data: {name}: no {label_key!r} (data.label_key) in a json file beside the image") from error
