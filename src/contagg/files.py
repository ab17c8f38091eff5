"""Files written whole or not at all. Needs no torch."""

import csv
import io
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from contagg.errors import UserError

PACKAGED = Path(__file__).parent / "weights"
"""Weights that come with the package: NAME.TAG.safetensors, and beside it what timm is to know of it, in JSON."""

FIGURE_ENDINGS = (".png", ".pdf", ".svg", ".jpg")


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside `path`, flush to the disk, then rename: a kill leaves the old file or the new one.

    Raises:
        OSError: naming `path`; the old file is as it was.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        beside.unlink(missing_ok=True)


def write_output(path: Path, content: bytes) -> None:
    """Write a file that a person asked for, and its folder. UserError where that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder beside, which becomes `folder` (not there yet, or empty) when all is in it: whole, or not at all.

    Raises:
        UserError: that is not possible; nothing is left of it then.
    """
    beside = folder.absolute().with_name(f".{folder.absolute().name}.partial")
    try:
        shutil.rmtree(beside, ignore_errors=True)  # what a killed one left
        beside.mkdir(parents=True)
        yield beside
        beside.replace(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def obstacle(path: Path, folder: bool = False) -> str:
    """What keeps a file, or a `folder` of files, from being written there; empty where nothing does.

    >>> obstacle(Path(__file__) / "a.png").endswith("files.py is no folder")
    True
    """
    if not folder and is_folder(path):
        return f"{path} is a folder"
    above = path if folder else path.parent
    while not os.path.lexists(above) and above != above.parent:
        above = above.parent
    if not is_folder(above):
        return f"{above} is no folder"
    return "" if os.access(above, os.W_OK | os.X_OK) else f"{above} takes no new files"


def as_csv(rows: Iterable[Iterable[object]]) -> bytes:
    """Rows as the content of a CSV file; the first is that of the columns' names."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def is_folder(path: str | Path) -> bool:
    """Whether it is one; false also for what can be no path, where `Path.is_dir` may raise: too long, or with a NUL.

    >>> is_folder("x" * 5000)
    False
    """
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: str | Path) -> bool:
    """Whether it is a regular one; false also for what can be no path."""
    return os.path.isfile(path)  # noqa: PTH113
