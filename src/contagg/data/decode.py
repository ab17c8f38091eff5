"""Reading one image as people see it, whatever its file holds, or saying why it cannot be read."""

from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from contagg.data.sampling import UnreadableSampleError

MAX_ELONGATION = 100  # resizing the short side of anything longer to a network's size would fill the memory


def read_image(source: str | Path | IO[bytes], name: str) -> Image.Image:
    """The image in a file, in mode L or RGB, 8 bits a channel: upright by its EXIF, alpha over white, first frame.

    Raises:
        UnreadableSampleError: with `name` and the reason, for whatever is no whole image of a sane shape.
    """
    try:
        with Image.open(source) as image:
            return as_grey_or_rgb(image)
    except Exception as error:  # decoders raise nearly anything on broken files: SyntaxError, struct.error, IndexError
        raise UnreadableSampleError(name, _first_line(error)) from error


def as_grey_or_rgb(image: Image.Image) -> Image.Image:
    """The image upright, in mode L or RGB, 8 bits a channel. ValueError for values or shapes without a meaning."""
    width, height = image.size
    if max(width, height) > MAX_ELONGATION * min(width, height):
        raise ValueError(f"{width} x {height} pixels are too elongated")
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(np.asarray(image)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Grey of 16 bits (integers), or floats in [0, 1], as 8 bits. Pillow itself would cut them off at 255."""
    top = 65535 if values.dtype.kind in "iu" else 1
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= top):
        raise ValueError(f"pixel values from {low} to {high} have no known meaning")
    return np.round(values * (255 / top)).astype(np.uint8)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
