"""What is read of a clone: only what lies in it, under names that tables and JSON can hold."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from contagg.data.coco.labelled import read_lines
from contagg.errors import UserError

WHICH = "is it the clone that `python -m tools.real_sets -h` names?"


def within(clone: Path, name: str) -> Path:
    """A folder of a clone, all below it looked at. UserError where it is not there or has what is not to be taken."""
    folder = clone / name
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: {WHICH}")
    _check(folder)
    for path in _below(folder):
        _check(path)
    return folder


def listed(clone: Path, name: str, images: Path) -> list[str]:
    """The images that a list in a clone names, by their paths below `images`. UserError for one that is not there."""
    path = clone / name
    if not path.is_file():
        raise UserError(f"{path} is no file: {WHICH}")
    _check(path)
    try:
        names = [line.strip() for line in read_lines(path) if line.strip()]
    except UserError as error:
        raise UserError(f"{clone}{error}") from error
    known = {found.relative_to(images).as_posix() for found in images.glob("*/*")}
    if wrong := next((name for name in names if name not in known), ""):
        raise UserError(f"{path} names {wrong!r}, where CLASS/IMAGE of {images} is due")
    if twice := next((name for name, times in Counter(names).items() if times > 1), ""):
        raise UserError(f"{path} names {twice!r} more than once: leave one line of it")
    return names


def _check(path: Path) -> None:
    """UserError for a link, which may lead to anything of whoever makes the set, and for a name that is no text."""
    if path.is_symlink():
        raise UserError(f"{path} is a link to {path.readlink()}: put what it leads to in its place")
    if not path.name.isprintable():
        raise UserError(f"{path}: the name {path.name!r} should be readable letters in UTF-8: rename it")


def _below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}") from error

    for above, folders, files in os.walk(folder, onerror=refuse):
        yield from (Path(above, name) for name in (*folders, *files))
