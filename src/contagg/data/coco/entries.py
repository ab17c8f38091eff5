"""One entry of a COCO JSON: a category, an image, an annotation, held to what it must be. Needs no torch.

Errors begin with what follows the entry's name: `: its id is given twice`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from contagg.data.coco.masks import LARGEST, area, check, nothing
from contagg.errors import UserError, class_name


@dataclass(frozen=True)
class Category:
    """A class: its id in the JSON, and its name."""

    id: int
    name: str

    def __post_init__(self) -> None:
        if type(self.id) is not int or not -(2**63) <= self.id < 2**63:
            raise UserError(f": its 'id' must be a whole number of 64 bits, not {self.id!r:.40}")
        object.__setattr__(self, "name", class_name(self.name))


@dataclass(frozen=True)
class ImageEntry:
    """An image of the JSON; sizes in pixels. COCO's ids are whole numbers, other tools write texts."""

    id: int | str
    file_name: str
    height: int
    width: int


def given(entry: Any, key: str) -> Any:
    if not isinstance(entry, dict) or key not in entry:
        raise UserError(f": it has no {key!r}")
    return entry[key]


def text(entry: Any, key: str) -> str:
    value = given(entry, key)
    if not isinstance(value, str) or not value:
        raise UserError(f": its {key!r} must be a text, not {value!r:.40}")
    return value


def whole(value: Any, key: str) -> int:
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    raise UserError(f": its {key!r} must be a whole number, not {value!r:.40}")


def number_or_text(entry: Any, key: str) -> int | str:
    value = given(entry, key)
    return value if isinstance(value, str) else whole(value, key)


def references(
    entry: Any, places: Mapping[int | str, ImageEntry | None], categories: set[int]
) -> tuple[int | str, ImageEntry | None, int]:
    """An annotation's id, image and category."""
    number, image = number_or_text(entry, "id"), number_or_text(entry, "image_id")
    category = whole(given(entry, "category_id"), "category_id")
    if image not in places:
        raise UserError(f": there is no image {image!r}")
    if category not in categories:
        raise UserError(f": category {category} is not declared")
    return number, places[image], category


def annotation_of(
    entry: dict[str, Any], image: ImageEntry, needs_masks: bool, clip_boxes: float
) -> tuple[dict[str, Any], bool]:
    """A checked annotation but for its ids, and whether its box covers nothing of its image."""
    size = (image.height, image.width)
    try:
        box = _box(given(entry, "bbox"), image, clip_boxes)
        x, y, width, height = box
        thin = min(x + width, image.width) <= max(x, 0) or min(y + height, image.height) <= max(y, 0)
        found: dict[str, Any] = {"bbox": box, "iscrowd": _is_crowd(entry.get("iscrowd", 0))}
        segmentation = entry.get("segmentation") or None
        if needs_masks and not segmentation and not thin:
            raise UserError(": it has no segmentation, which Mask R-CNN learns from")
        if segmentation and (needs_masks or "area" not in entry):
            segmentation = _checked(segmentation, size, thin)
        if "area" in entry:
            found["area"] = _area(entry["area"])
        else:
            found["area"] = area(segmentation, size) if segmentation else width * height
        if needs_masks:
            found["segmentation"] = segmentation or nothing(size)
    except UserError as error:
        raise UserError(f", image {image.file_name}{error}") from error
    return found, thin


def _checked(segmentation: Any, size: tuple[int, int], thin: bool) -> Any:
    """None for what is no mask of an object without an extent."""
    try:
        check(segmentation, size)
    except UserError as error:
        if thin:
            return None
        raise UserError(f": {error}") from error
    return segmentation


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and -LARGEST < value < LARGEST  # false for NaN too


def _area(value: Any) -> float:
    if not _is_number(value) or value < 0:
        raise UserError(f": its area must be a finite number of pixels, not {value!r:.40}")
    return float(value)


def _is_crowd(mark: Any) -> int:
    if not _is_number(mark) or mark not in (0, 1):
        raise UserError(f": its iscrowd must be 0 or 1, not {mark!r:.40}")
    return int(mark)


def _box(box: Any, image: ImageEntry, clip_boxes: float) -> list[float]:
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
        raise UserError(f": its box must be four finite numbers x, y, width, height, not {box!r:.100}")
    x, y, width, height = map(float, box)
    if width < 0 or height < 0:
        raise UserError(f": its box {box} has a negative width or height")
    beyond = max(-x, -y, x + width - image.width, y + height - image.height)
    if beyond > clip_boxes:
        raise UserError(
            f": its box {box} lies outside the {image.width} x {image.height} pixels by {beyond:.4g}; "
            "data.clip_boxes allows some"
        )
    return [x, y, width, height]
