"""The ids that an annotation file has for images and categories: with them others' tools score what was found."""

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from contagg.data.coco.annotations import read_categories, read_content
from contagg.data.coco.entries import Category, new_id, text
from contagg.data.coco.faults import Faults
from contagg.errors import UserError, plural

logger = logging.getLogger(__name__)
_SHOWN = 3


@dataclass(frozen=True)
class Numbering:
    """Ids: of images by their files, of categories by label."""

    images: dict[Path, int | str]
    categories: list[int]


def numbering_of(file: Path, paths: Sequence[Path], categories: Sequence[Category]) -> Numbering:
    """What a COCO JSON calls these images, by their names, and a detector's categories, by theirs.

    UserError where it has no image or category of a name, or several.
    """
    content, faults = read_content(file), Faults(file)
    entries: dict[str, int | str] = {}
    seen: set[int | str] = set()
    for entry in content["images"]:
        with faults.of(f"image {entry!r:.80}"):
            number, name = new_id(entry, seen), text(entry, "file_name")
            if name in entries:
                raise UserError(f": {name!r:.80} is also the file of image {entries[name]}")
            entries[name] = number
    declared = read_categories(content["categories"], faults)
    faults.settle()
    found = Numbering(_images(file, entries, paths), [_category(file, declared, one) for one in categories])
    if absent := len(entries) - len(found.images):
        some = plural(absent, "image that is", "images that are")
        logger.warning("--annotations %s has %s not given: scores count their objects as missed", file, some)
    return found


def _images(file: Path, entries: dict[str, int | str], paths: Iterable[Path]) -> dict[Path, int | str]:
    by_last = defaultdict(list)
    for name in entries:
        by_last[_words(name)[-1]].append(name)
    missing, taken, found = [], dict[str, Path](), dict[Path, int | str]()
    for path in paths:
        names = by_last.get(path.name, [])
        if len(names) > 1:  # in several folders: that whose folder it is
            names = [name for name in names if _ends_so(path, name)] or names
        if len(names) > 1:
            raise UserError(f"{path}: which image of --annotations {file} is it: {', '.join(names[:_SHOWN])}?")
        if not names:
            missing.append(str(path))
        elif names[0] in taken:
            raise UserError(f"{taken[names[0]]} and {path} are both {names[0]!r} of --annotations {file}: give one")
        else:
            taken[names[0]], found[path] = path, entries[names[0]]
    if missing:
        more = f" and {len(missing) - _SHOWN:,} more" if len(missing) > _SHOWN else ""
        number = plural(len(missing), "image")
        raise UserError(f"--annotations {file} has not {number} by name: {', '.join(missing[:_SHOWN])}{more}")
    return found


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[/\\]", name) if word not in ("", ".")] or [name]


def _ends_so(path: Path, name: str) -> bool:
    words = _words(name)
    return list(path.absolute().parts[-len(words) :]) == words


def _category(file: Path, declared: Sequence[Category], own: Category) -> int:
    ids = [category.id for category in declared if category.name == own.name]
    if own.id in ids:
        return own.id
    if len(ids) != 1:
        said = plural(len(ids), "category", "categories") if ids else "no category"
        raise UserError(f"--annotations {file} has {said} {own.name!r}, which the detector finds: it must have one")
    return ids[0]
