"""One entry of a COCO JSON: a category, an image, an annotation, held to what it must be. Needs no torch.

Errors begin with what follows the entry's name: `: its id is given twice`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from contagg.data.coco.faults import Faults
from contagg.data.coco.masks import area, check, is_number, nothing
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
    whole_one = isinstance(value, int) and not isinstance(value, bool)
    if whole_one or (isinstance(value, float) and value.is_integer()):
        return int(value)
    raise UserError(f": its {key!r} must be a whole number, not {value!r:.40}")


def number_or_text(entry: Any, key: str) -> int | str:
    value = given(entry, key)
    return value if isinstance(value, str) else whole(value, key)


def new_id(entry: Any, seen: set[int | str]) -> int | str:
    """An annotation's or image's id, none of those that were seen; it is now."""
    number = number_or_text(entry, "id")
    if number in seen:
        raise UserError(": its id is given twice")
    seen.add(number)
    return number


def image_of(entry: Any, places: Mapping[int | str, ImageEntry | None]) -> ImageEntry | None:
    """An annotation's image; None for one with a fault, which was said."""
    image = number_or_text(entry, "image_id")
    if image not in places:
        raise UserError(f": there is no image {image!r}")
    return places[image]


def category_of(entry: Any, categories: set[int]) -> int:
    """The id of an annotation's category."""
    category = whole(given(entry, "category_id"), "category_id")
    if category not in categories:
        raise UserError(f": category {category} is not declared")
    return category


def annotation_of(
    entry: dict[str, Any], image: ImageEntry, needs_masks: bool, clip_boxes: float, faults: Faults, where: str
) -> tuple[dict[str, Any], bool]:
    """A checked annotation but for its ids, and whether its box covers nothing of its image.

    Of one with faults, which are kept under `where`, nothing is to be used.
    """
    size, where = (image.height, image.width), f"{where}, image {image.file_name}"
    box = faults.result(where, _box, entry, image, clip_boxes)
    crowd = faults.result(where, _is_crowd, entry.get("iscrowd", 0))
    thin = box is not None and _is_thin(box, image)
    segmentation = faults.result(where, _segmentation, entry, size, needs_masks, thin)
    extent = faults.result(where, _area, entry, box, segmentation, size)
    found: dict[str, Any] = {"bbox": box, "iscrowd": crowd, "area": extent}
    if needs_masks:
        found["segmentation"] = segmentation or nothing(size)
    return found, thin


def _is_thin(box: list[float], image: ImageEntry) -> bool:
    x, y, width, height = box
    return min(x + width, image.width) <= max(x, 0) or min(y + height, image.height) <= max(y, 0)


def _segmentation(entry: dict[str, Any], size: tuple[int, int], needs_masks: bool, thin: bool) -> Any:
    """Checked where it is needed; None for what is no mask of an object without an extent."""
    segmentation = entry.get("segmentation") or None
    if needs_masks and not segmentation and not thin:
        raise UserError(": it has no segmentation, which Mask R-CNN learns from")
    if not segmentation or not (needs_masks or "area" not in entry):
        return segmentation
    try:
        check(segmentation, size)
    except UserError as error:
        if thin:
            return None
        raise UserError(f": {error}") from error
    return segmentation


def _area(entry: dict[str, Any], box: list[float] | None, segmentation: Any, size: tuple[int, int]) -> float:
    """As given, or else that of the segmentation, or without one that of the box, where it could be read."""
    if "area" not in entry:
        if segmentation:
            return area(segmentation, size)
        return box[2] * box[3] if box else 0.0
    value = entry["area"]
    if not is_number(value) or value < 0:
        raise UserError(f": its area must be a finite number of pixels, not {value!r:.40}")
    return float(value)


def _is_crowd(mark: Any) -> int:
    if not isinstance(mark, int | float) or mark not in (0, 1):
        raise UserError(f": its iscrowd must be 0 or 1, not {mark!r:.40}")
    return int(mark)


def _box(entry: dict[str, Any], image: ImageEntry, clip_boxes: float) -> list[float]:
    box = given(entry, "bbox")
    if not (isinstance(box, list) and len(box) == 4 and all(map(is_number, box))):
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
