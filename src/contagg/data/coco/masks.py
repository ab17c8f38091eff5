"""Masks as COCO writes them: polygons, or run lengths (RLE) column by column. Needs no torch.

A mask is uint8 or bool (H, W). Coordinates are pixels, (0, 0) being the corner of the first, not its centre.
"""

from itertools import pairwise
from typing import Any

import numpy as np

from contagg.errors import UserError, plural

try:
    from faster_coco_eval.core import mask as coco_mask
except ImportError as error:
    raise UserError("detection needs the package faster-coco-eval: pip install 'contagg[detection]'") from error

Segmentation = Any
"""As in COCO's JSON: [[x, y, x, y, ..], ..], or {"size": [H, W], "counts": [..] or a compressed text}."""

LARGEST = 1e12
"""Of any coordinate or area: what is beyond it, or is not a number, is none of an image."""
_LONGEST_COUNT = 60
"""Bits: a million letters of one number would take time by their square."""
_WINDINGS = 200
"""Times an image's width and height that an object's outline may be long: hair and foliage have some tens."""


def is_number(value: Any) -> bool:
    """Whether it is a number as coordinates and areas are: finite, and not JSON's `true`."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST < value < LARGEST


def to_rle(mask: np.ndarray) -> dict[str, Any]:
    """Compressed run lengths, `counts` as text, so that they can be written to JSON."""
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(length) for length in encoded["size"]], "counts": encoded["counts"].decode()}


def to_mask(segmentation: Segmentation, size: tuple[int, int]) -> np.ndarray:
    """A segmentation of an image of `size` (H, W) as uint8 (H, W).

    Raises:
        UserError: it is neither polygons nor run lengths, or its run lengths are broken or of another size.
    """
    check(segmentation, size)
    try:
        return decoded(segmentation, size)
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise UserError(f"the segmentation cannot be read: {error}") from error


def decoded(segmentation: Segmentation, size: tuple[int, int]) -> np.ndarray:
    """A checked segmentation as uint8 (H, W); polygons may reach beyond the image."""
    return coco_mask.decode(compressed(segmentation, size))


def compressed(segmentation: Segmentation, size: tuple[int, int]) -> dict[str, Any]:
    """A checked segmentation as one compressed RLE."""
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, *size)
    return segmentation


def area(segmentation: Segmentation, size: tuple[int, int]) -> float:
    """Pixels of a checked segmentation."""
    return float(coco_mask.area(compressed(segmentation, size)))


def extent(segmentation: Segmentation, size: tuple[int, int]) -> list[float]:
    """x, y, width and height of a checked segmentation's pixels."""
    return [float(value) for value in coco_mask.toBbox(compressed(segmentation, size))]


def nothing(size: tuple[int, int]) -> Segmentation:
    """The run lengths of a mask without an object."""
    empty = coco_mask.frPyObjects({"size": list(size), "counts": [size[0] * size[1]]}, *size)
    return {"size": list(size), "counts": empty["counts"].decode()}


def check(segmentation: Segmentation, size: tuple[int, int]) -> None:
    """UserError unless a segmentation is well formed and of an image of `size` (H, W)."""
    if isinstance(segmentation, list):
        _check_polygons(segmentation, size)
    elif isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys():
        _check_rle(segmentation, size)
    else:
        raise UserError("the segmentation is neither a list of polygons nor an RLE with `size` and `counts`")


def _check_polygons(polygons: list[Any], size: tuple[int, int]) -> None:
    if not polygons:
        raise UserError("the segmentation has no polygon")
    for polygon in polygons:
        numbers = isinstance(polygon, list) and all(map(is_number, polygon))
        if not numbers or len(polygon) < 6 or len(polygon) % 2:
            shown = plural(len(polygon), "value") if isinstance(polygon, list) else repr(polygon)
            raise UserError(f"a polygon must be finite numbers x, y, x, y, .. of three points or more, not {shown}")
        # Some beyond the image is cut off. All beyond it would leave nothing; far beyond it, drawing would find no end.
        for axis, length, values in (("x", size[1], polygon[::2]), ("y", size[0], polygon[1::2])):
            low, high = min(values), max(values)
            if high < 0 or low > length or low < -length or high > 2 * length:
                raise UserError(
                    f"a polygon's {axis} from {low} to {high} does not fit the image's 0 to {length} pixels"
                )
    # Drawing takes memory by the length: a small file could ask for all there is. No line is longer than 3 x (W + H).
    if 3 * sum(map(len, polygons)) / 2 > _WINDINGS:
        outline = sum(_length(polygon[axis::2]) for polygon in polygons for axis in (0, 1))
        if outline > _WINDINGS * sum(size):
            raise UserError(
                f"the polygons are {outline:,.0f} pixels long, no object's outline in {size[1]} x {size[0]}"
            )


def _length(values: list[float]) -> float:
    return sum(abs(one - other) for one, other in pairwise([*values, values[0]]))


def _check_rle(segmentation: dict[str, Any], size: tuple[int, int]) -> None:
    counts = segmentation["counts"]
    if segmentation["size"] != list(size):
        raise UserError(f"the mask is {segmentation['size']} high and wide, its image {list(size)}")
    if isinstance(counts, str | bytes):
        counts = _run_lengths(counts)
    elif not isinstance(counts, list) or not all(type(count) is int for count in counts):
        raise UserError("an RLE's counts must be whole numbers or a compressed text")
    pixels = size[0] * size[1]
    if not all(0 <= count <= pixels for count in counts):  # and none so long that Python would not write their sum
        raise UserError(f"the RLE is broken: a count is none from 0 to {pixels}, the image's pixels")
    if sum(counts) != pixels:
        raise UserError(f"the RLE is broken: its counts add up to {sum(counts)}, the image has {pixels} pixels")
    if not sum(counts[1::2]):
        raise UserError("the RLE has no pixel of the object")


def _run_lengths(text: str | bytes) -> list[int]:
    """Decompress COCO's text: 5 bits a letter, low bits first, and from the third on differences to two before."""
    letters = text.encode("utf-8", "backslashreplace") if isinstance(text, str) else text
    counts: list[int] = []
    value = shift = 0
    for letter in letters:
        bits = letter - 48
        if not 0 <= bits < 64:
            raise UserError(f"the RLE is broken: its text has the letter {chr(letter)!r}")
        value |= (bits & 31) << shift
        shift += 5
        if shift > _LONGEST_COUNT:
            raise UserError("the RLE is broken: its text has a number longer than any image's")
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise UserError("the RLE is broken: its text ends within a number")
    return counts
