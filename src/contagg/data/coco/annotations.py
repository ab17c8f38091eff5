"""What a COCO JSON says, checked once. Needs no torch.

Category ids, with their gaps, become labels 0 .. K-1 in the order of the ids.
"""

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from contagg.data.coco.masks import LARGEST, check
from contagg.errors import UserError

logger = logging.getLogger(__name__)

_TOLERANCE = 1.0
"""Pixels that a box may reach beyond its image, as rounding makes it."""


@dataclass(frozen=True)
class Category:
    """A class: its id in the JSON, and its name."""

    id: int
    name: str


@dataclass(frozen=True)
class ImageEntry:
    """An image of the JSON; sizes in pixels."""

    id: int
    file_name: str
    height: int
    width: int


@dataclass(frozen=True)
class CocoAnnotations:
    """A checked COCO JSON.

    Attributes:
        path: Of the JSON.
        folder: Of the images.
        categories: Ascending by id; a category's place is its label.
        images: As the JSON has them.
        dropped: Annotations left out, by reason.
    """

    path: Path
    folder: Path
    categories: tuple[Category, ...]
    images: tuple[ImageEntry, ...]
    dropped: Mapping[str, int]
    _stored: "_Stored"

    @property
    def class_names(self) -> tuple[str, ...]:
        """By label."""
        return tuple(category.name for category in self.categories)

    def objects(self, index: int) -> list[dict[str, Any]]:
        """An image's annotations, crowds included: category_id, bbox [x, y, w, h], iscrowd, segmentation, area, id.

        A box may reach a pixel beyond its image, as the JSON has it: it is clipped in training, not in evaluation.
        """
        return self._stored[index]

    def require_objects(self) -> None:
        """UserError where there is nothing to find, or boxes are not in pixels."""
        # One by one: the first of COCO's 860,000 settles both.
        boxes = (thing["bbox"] for index in range(len(self.images)) for thing in self.objects(index))
        first = next(boxes, None)
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
                {"image_id": self.images[index].id, **thing, "id": next(numbers)}
                for index in chosen
                for thing in self.objects(index)
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
        return json.loads(self._bytes[self._ends[index] : self._ends[index + 1]].tobytes())


def read_annotations(path: Path, folder: Path, needs_masks: bool = False) -> CocoAnnotations:
    """Read and check a JSON of instances.

    Boxes of no width or height, or none within the image, are left out and counted in a warning.

    Raises:
        UserError: no such file or folder; no JSON; no COCO; ids given twice or not declared; a box that is not four
            finite numbers or lies outside its image; no area or mark of a crowd that could be one; a broken
            segmentation, or none where masks are needed; a missing image. Says where.
    """
    content = _content(path)
    categories = _categories(content["categories"], path)
    images = _images(content["images"], path, folder)
    places = {image.id: place for place, image in enumerate(images)}
    known = {category.id for category in categories}
    objects: dict[int, list[dict[str, Any]]] = defaultdict(list)
    dropped: Counter[str] = Counter()
    seen: set[int] = set()
    for entry in content["annotations"]:
        where = f"{path}: annotation {entry.get('id') if isinstance(entry, dict) else entry!r}"
        thing = _annotation(entry, where, places, known, images, needs_masks)
        if thing["id"] in seen:
            raise UserError(f"{where}: its id is given twice")
        seen.add(thing["id"])
        if _is_thin(thing["bbox"], images[places[entry["image_id"]]]):
            dropped["boxes without width or height"] += 1
        else:
            objects[places[entry["image_id"]]].append(thing)
    for reason, times in dropped.items():
        logger.warning("%s: left out %d %s", path, times, reason)
    stored = _Stored(objects.get(place, []) for place in range(len(images)))
    return CocoAnnotations(path, folder, categories, images, dropped, stored)


def _content(path: Path) -> dict[str, list[Any]]:
    if not path.is_file():
        raise UserError(f"no annotations at {path}: a COCO JSON of instances was expected there")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is no readable JSON: {error}") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"{path} is no COCO JSON of instances: it has no list {key!r}")
    for key in ("images", "categories"):
        if not content[key]:
            raise UserError(f"{path}: its list {key!r} is empty")
    return content


def _categories(entries: list[Any], path: Path) -> tuple[Category, ...]:
    _check_entries(entries, {"id": int, "name": str}, f"{path}: category")
    return tuple(sorted((Category(e["id"], e["name"]) for e in entries), key=lambda category: category.id))


def _images(entries: list[Any], path: Path, folder: Path) -> tuple[ImageEntry, ...]:
    kinds = {"id": int, "file_name": str, "height": int, "width": int}
    _check_entries(entries, kinds, f"{path}: image")
    images = tuple(ImageEntry(*(entry[key] for key in kinds)) for entry in entries)
    if not folder.is_dir():
        raise UserError(f"no folder of images at {folder}")
    present: dict[Path, set[str]] = {}
    for image in images:
        if min(image.height, image.width) < 1:
            raise UserError(f"{path}: image {image.id} is {image.height} x {image.width} pixels")
        file = folder / image.file_name
        if file.parent not in present:  # one listing a folder: asking for each file takes long on shared disks
            present[file.parent] = _listing(file.parent)
        if file.name not in present[file.parent]:
            raise UserError(f"image {image.id} of {path} is missing: no {file}")
    return images


def _listing(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()


def _check_entries(entries: list[Any], kinds: Mapping[str, type], where: str) -> None:
    seen: set[int] = set()
    for entry in entries:
        for key, kind in kinds.items():
            if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
                raise UserError(f"{where} {entry!r:.100}: a {kind.__name__} {key!r} was expected")
        if entry["id"] in seen:
            raise UserError(f"{where} {entry['id']}: its id is given twice")
        seen.add(entry["id"])


def _annotation(
    entry: Any,
    where: str,
    places: Mapping[int, int],
    categories: set[int],
    images: Sequence[ImageEntry],
    needs_masks: bool,
) -> dict[str, Any]:
    """A checked annotation."""
    for key in ("id", "image_id", "category_id", "bbox"):
        if not isinstance(entry, dict) or key not in entry:
            raise UserError(f"{where}: it has no {key!r}")
        if key != "bbox" and not isinstance(entry[key], int):
            raise UserError(f"{where}: its {key!r} must be a whole number, not {entry[key]!r}")
    if entry["image_id"] not in places:
        raise UserError(f"{where}: there is no image {entry['image_id']!r}")
    if entry["category_id"] not in categories:
        raise UserError(f"{where}: category {entry['category_id']!r} is not declared")
    image = images[places[entry["image_id"]]]
    where = f"{where}, image {image.file_name}"
    box = _box(entry["bbox"], where, image)
    thing = {
        "id": entry["id"],
        "category_id": entry["category_id"],
        "bbox": box,
        "area": _area(entry.get("area", box[2] * box[3]), where),
        "iscrowd": _is_crowd(entry.get("iscrowd", 0), where),
    }
    if needs_masks and not _is_thin(box, image):
        if not entry.get("segmentation"):
            raise UserError(f"{where}: it has no segmentation, which Mask R-CNN learns from")
        try:
            check(entry["segmentation"], (image.height, image.width))
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        thing["segmentation"] = entry["segmentation"]
    return thing


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and -LARGEST < value < LARGEST  # false for NaN too


def _area(area: Any, where: str) -> float:
    if not _is_number(area) or area < 0:
        raise UserError(f"{where}: its area must be a finite number of pixels, not {area!r:.40}")
    return float(area)


def _is_crowd(mark: Any, where: str) -> int:
    if not isinstance(mark, int) or mark not in (0, 1):
        raise UserError(f"{where}: its iscrowd must be 0 or 1, not {mark!r:.40}")
    return int(mark)


def _box(box: Any, where: str, image: ImageEntry) -> list[float]:
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
        raise UserError(f"{where}: its box must be four finite numbers x, y, width, height, not {box!r:.100}")
    x, y, width, height = map(float, box)
    if width < 0 or height < 0:
        raise UserError(f"{where}: its box {box} has a negative width or height")
    beyond = max(-x, -y, x + width - image.width, y + height - image.height)
    if beyond > _TOLERANCE:
        raise UserError(f"{where}: its box {box} lies outside the {image.width} x {image.height} pixels")
    return [x, y, width, height]


def _is_thin(box: Sequence[float], image: ImageEntry) -> bool:
    """Whether nothing of a box lies within its image."""
    x, y, width, height = box
    return min(x + width, image.width) <= max(x, 0) or min(y + height, image.height) <= max(y, 0)
