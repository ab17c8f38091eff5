"""What a COCO JSON says, checked once. Needs no torch.

Category ids, with their gaps, become labels 0 .. K-1 in the order of the ids.
"""

import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from contagg.data.coco.entries import (
    Category,
    ImageEntry,
    annotation_of,
    category_of,
    given,
    image_of,
    new_id,
    number_or_text,
    text,
    whole,
)
from contagg.data.coco.faults import Faults
from contagg.data.config import LARGEST_MAX_PIXELS
from contagg.data.fingerprint import Listing
from contagg.errors import UserError, plural
from contagg.files import is_file, is_folder

logger = logging.getLogger(__name__)

_SHOWN = 3


@dataclass(frozen=True)
class CocoAnnotations:
    """A checked COCO JSON.

    Attributes:
        path: Of the JSON.
        folder: Of the images.
        categories: Ascending by id; a category's place is its label.
        images: As the JSON has them.
        sizes: Of the images' files, in bytes.
        thin: Annotations whose box covers nothing of its image. None learns from them; they are scored, as COCO does.
    """

    path: Path
    folder: Path
    categories: tuple[Category, ...]
    images: tuple[ImageEntry, ...]
    sizes: np.ndarray
    thin: int
    _stored: "_Stored"

    @property
    def class_names(self) -> tuple[str, ...]:
        """By label."""
        return tuple(category.name for category in self.categories)

    @property
    def unique_names(self) -> list[str]:
        """By label; those that several categories share have their ids beside them."""
        times = Counter(self.class_names)
        return [c.name if times[c.name] == 1 else f"{c.name} ({c.id})" for c in self.categories]

    def objects(self, index: int) -> list[dict[str, Any]]:
        """An image's annotations, crowds included: category_id, bbox [x, y, w, h], iscrowd, segmentation, area, id.

        A box may reach a little beyond its image, as the JSON has it: it is clipped in training, not in evaluation.
        """
        return self._stored[index]

    def listing(self) -> Listing:
        """What a fingerprint is made of; an image's labels are all that its annotations say."""
        labels = np.array([-1 - crc32(part) for part in self._stored], dtype=np.int64)
        return Listing(
            [image.file_name.encode("utf-8", "surrogateescape") for image in self.images], labels, self.sizes
        )

    def files(self) -> set[Path]:
        """Of the images."""
        folder = self.folder.resolve()
        return {folder / image.file_name for image in self.images}

    def require_objects(self) -> None:
        """UserError where there is nothing to find, or boxes are not in pixels."""
        # One by one: the first of COCO's 860,000 settles both.
        boxes = (entry["bbox"] for index in range(len(self.images)) for entry in self.objects(index))
        first = next((box for box in boxes if min(box[2:]) > 0), None)
        if first is None:
            raise UserError(f"{self.path} has no annotation that can be used")
        if max(first) <= 1 and all(max(box) <= 1 for box in boxes):
            raise UserError(
                f"{self.path}: no box reaches beyond the first pixel; x, y, width and height must be in pixels, not "
                "fractions of the image"
            )

    def label(self, category_id: int) -> int:
        """The label of a category id."""
        return self._labels[category_id]

    @cached_property
    def _labels(self) -> dict[int, int]:
        return {category.id: label for label, category in enumerate(self.categories)}

    def ground_truth(self, indices: Iterable[int]) -> dict[str, Any]:
        """These images as a COCO JSON again, for evaluation.

        Annotations are numbered anew: COCO's evaluation takes what matched the id 0 for unmatched, without a word.
        """
        chosen = list(indices)
        numbers = count(1)
        return {
            "images": [vars(self.images[index]) for index in chosen],
            "annotations": [
                {"image_id": self.images[index].id, **entry, "id": next(numbers)}
                for index in chosen
                for entry in self.objects(index)
            ],
            "categories": [vars(category) for category in self.categories],
        }


class _Stored:
    """Lists of annotations as bytes: Python's objects would be copied into each worker as their references count."""

    def __init__(self, lists: Iterable[list[dict[str, Any]]]) -> None:
        parts = [json.dumps(objects).encode() for objects in lists]
        self._ends = np.cumsum([0, *map(len, parts)])
        self._bytes = np.frombuffer(b"".join(parts), np.uint8)

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        return json.loads(self._part(index))

    def __iter__(self) -> Iterator[bytes]:
        return map(self._part, range(len(self._ends) - 1))

    def _part(self, index: int) -> bytes:
        return self._bytes[self._ends[index] : self._ends[index + 1]].tobytes()


def read_annotations(path: Path, folder: Path, needs_masks: bool = False, clip_boxes: float = 1.0) -> CocoAnnotations:
    """Read and check a JSON of instances.

    Ids and sizes may be written as 7.0; ids of images may be texts. An `area` that is missing is that of the
    segmentation, or without one that of the box.

    Args:
        clip_boxes: Pixels that a box may reach beyond its image.

    Raises:
        UserError: no such file or folder; no JSON; no COCO. Or, all of them counted and the first few said: ids given
            twice or not declared; a box that is not four finite numbers or lies outside its image; no area or mark of
            a crowd that could be one; a broken segmentation, or none where masks are needed; a missing image.
    """
    content = read_content(path)
    if not is_folder(folder):
        raise UserError(f"no folder of images at {folder}")
    faults = Faults(path)
    categories = read_categories(content["categories"], faults)
    places, sizes = _images(content["images"], folder, faults)
    images = [image for image in places.values() if image is not None]
    known = {category.id for category in categories}
    objects: dict[int | str, list[dict[str, Any]]] = {image.id: [] for image in images}
    seen: set[int | str] = set()
    thin = 0
    for entry in content["annotations"]:
        where = f"annotation {entry.get('id') if isinstance(entry, dict) else entry!r}"
        number = faults.result(where, new_id, entry, seen)
        if not isinstance(entry, dict):
            continue
        category = faults.result(where, category_of, entry, known)
        image = faults.result(where, image_of, entry, places)
        if image is not None:  # else what is wrong with it is said
            found, is_thin = annotation_of(entry, image, needs_masks, clip_boxes, faults, where)
            objects[image.id].append({"id": number, "category_id": category, **found})
            thin += is_thin
    faults.settle()
    if thin:
        logger.warning("%s: %s without width or height: nothing learns there", path, plural(thin, "box", "boxes"))
    return CocoAnnotations(path, folder, categories, tuple(images), np.array(sizes), thin, _Stored(objects.values()))


def differing(first: Sequence[Category], names: tuple[Any, Any], second: Sequence[Category]) -> str:
    """Which categories are not the same in two files of these names, the first few; empty where all are."""
    one, other = ({category.id: category.name for category in some} for some in (first, second))
    said = []
    for number in sorted(one.keys() | other.keys()):
        if number not in other or number not in one:
            where, name = (names[0], one[number]) if number in one else (names[1], other[number])
            said.append(f"{number} {name!r} is only in {where}")
        elif one[number] != other[number]:
            said.append(f"{number} is {one[number]!r} in {names[0]} and {other[number]!r} in {names[1]}")
    return "; ".join(said[:_SHOWN]) + (f"; and {len(said) - _SHOWN} more" if len(said) > _SHOWN else "")


def shared(annotations: CocoAnnotations) -> tuple[list[str], list[str]]:
    """Files that several entries of images name, and names that several categories have, each with their ids."""
    files, names = defaultdict(list), defaultdict(list)
    for image in annotations.images:
        files[os.path.normpath(image.file_name)].append(str(image.id))
    for category in annotations.categories:
        names[category.name].append(str(category.id))
    several = (({one: ids for one, ids in some.items() if len(ids) > 1}) for some in (files, names))
    by_files, by_names = ([f"{one} ({', '.join(ids)})" for one, ids in some.items()] for some in several)
    return by_files, by_names


def read_content(path: Path) -> dict[str, list[Any]]:
    """The lists of a COCO JSON, unchecked but that they are lists. UserError where it is none, or has no images."""
    if not is_file(path):
        raise UserError(f"no annotations at {path}: a COCO JSON of instances was expected there")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path} is no readable JSON: {error}") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"{path} is no COCO JSON of instances: it has no list {key!r}")
    for key in ("images", "categories"):
        if not content[key]:
            raise UserError(f"{path}: its list {key!r} is empty")
    return content


def read_categories(entries: list[Any], faults: Faults) -> tuple[Category, ...]:
    """In the order of their ids; what is wrong with one is kept."""
    found: dict[int, Category] = {}
    for entry in entries:
        with faults.of(f"category {entry!r:.80}"):
            number, name = whole(given(entry, "id"), "id"), text(entry, "name")
            if number in found:
                raise UserError(": its id is given twice")
            found[number] = Category(number, name)
    return tuple(found[number] for number in sorted(found))


def _images(entries: list[Any], folder: Path, faults: Faults) -> tuple[dict[int | str, ImageEntry | None], list[int]]:
    """By id, None for one with a fault; and the bytes of the others' files."""
    found: dict[int | str, ImageEntry | None] = {}
    sizes: list[int] = []
    present: dict[Path, dict[str, int]] = {}
    for entry in entries:
        with faults.of(f"image {entry.get('id') if isinstance(entry, dict) else entry!r:.80}"):
            number = number_or_text(entry, "id")
            if number in found:
                raise UserError(": its id is given twice")
            found[number] = None
            name, height, width = text(entry, "file_name"), *(whole(given(entry, k), k) for k in ("height", "width"))
            if min(height, width) < 1 or height * width > LARGEST_MAX_PIXELS:
                raise UserError(f" is {height} x {width} pixels: from 1 to {LARGEST_MAX_PIXELS:,} in all can be read")
            file = folder / name
            if (name.startswith("/") or ".." in name) and _leaves(folder, file):
                raise UserError(f" is said to be {name!r:.80}: nothing outside {folder} is read")
            if file.parent not in present:  # one listing a folder: asking for each file takes long on shared disks
                present[file.parent] = _listing(file.parent)
            if file.name not in present[file.parent]:
                raise UserError(f" is missing: no {file}")
            found[number] = ImageEntry(number, name, height, width)
            sizes.append(present[file.parent][file.name])
    return found, sizes


def _leaves(folder: Path, file: Path) -> bool:
    """Whether a JSON, which may be a stranger's, names a file that is not below the folder of images."""
    return not Path(os.path.normpath(file.absolute())).is_relative_to(os.path.normpath(folder.absolute()))


def _listing(folder: Path) -> dict[str, int]:
    """The files of a folder, and their sizes in bytes."""
    if not is_folder(folder):
        return {}
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    except OSError as error:
        raise UserError(f" cannot be looked for in {folder}: {error.strerror}") from error
