"""The one place that opens images: as people see them, whatever the file holds, or with the reason why not. No torch.

Files come from strangers. Only regular files are opened, only as one of FORMATS, whatever they are called (Pillow would
hand PostScript to Ghostscript), and the header's size is looked at before any pixel is decoded.
"""

import io
import logging
import re
import stat
import warnings
from pathlib import Path
from typing import IO
from zlib import crc32

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from contagg.data.config import LARGEST_MAX_PIXELS
from contagg.errors import UserError

logger = logging.getLogger(__name__)

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff")
"""What files of these formats are called, and so what a folder is searched for."""

MAX_PIXELS = 2**26
"""Above ImageNet's largest photograph (9,331 x 6,530); laying transparency over white then takes 1 GB at most."""

MAX_ELONGATION = 100  # resizing the short side of anything longer to a network's size would fill the memory

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = {_UPRIGHT[number] for number in (5, 6, 7, 8)}
_BITS_PER_SAMPLE = 258  # TIFF's tag
_told_of_depth = False


class UnreadableSampleError(Exception):
    """A data set raises it for a sample that cannot be read: `name` says which, `reason` why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def read_image(
    source: str | Path | bytes | IO[bytes], name: str, *, max_pixels: int = MAX_PIXELS, bit_depth: int | None = None
) -> Image.Image:
    """The image in a file, in mode L or RGB, 8 bits a channel: upright by its EXIF, alpha over white, first frame.

    Args:
        source: A path, a file's content, or an open file.
        max_pixels: Width times height that a file may announce; checked before it is decoded.
        bit_depth: Of grey files of more than 8 bits: white is 2^bit_depth - 1. None takes what a TIFF says, and of the
            others 16, whatever they hold: a dark image among others must not become bright. One that holds no value
            above 4095, as cameras of 12 bits write them, is told once.

    Raises:
        UnreadableSampleError: with `name` and the reason, for whatever is no whole image of a sane shape.

    >>> import numpy as np
    >>> from io import BytesIO
    >>> file = BytesIO()
    >>> Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16)).save(file, "PNG")
    >>> np.asarray(read_image(file.getvalue(), "ramp")).tolist()
    [[0, 128, 255]]
    """
    try:
        if isinstance(source, (str, Path)):
            with open_regular(Path(source)) as file:
                return _decoded(file, name, max_pixels, bit_depth)
        return _decoded(io.BytesIO(source) if isinstance(source, bytes) else source, name, max_pixels, bit_depth)
    except UnidentifiedImageError as error:
        raise UnreadableSampleError(name, f"cannot identify it as {', '.join(FORMATS)}") from error
    except Exception as error:  # decoders raise nearly anything on broken files: SyntaxError, struct.error, IndexError
        raise UnreadableSampleError(name, _first_line(error)) from error


def read_size(path: Path, name: str, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height of a file's image, upright, from its header alone. UnreadableSampleError as `read_image`."""
    try:
        with open_regular(path) as file, _opened(file) as image:
            _check_shape(*image.size, max_pixels)
            width, height = image.size
            return (height, width) if _transposed(image) in _SIDEWAYS else (width, height)
    except UnidentifiedImageError as error:
        raise UnreadableSampleError(name, f"cannot identify it as {', '.join(FORMATS)}") from error
    except Exception as error:
        raise UnreadableSampleError(name, _first_line(error)) from error


def open_image(path: str | Path, bit_depth: int | None = None) -> Image.Image:
    """`read_image` for a file that a person named. UserError, in one line, where it is missing or cannot be read."""
    if not Path(path).exists():
        raise UserError(f"there is no image {str(path)!r}")
    try:
        return read_image(path, str(path), bit_depth=bit_depth)
    except UnreadableSampleError as error:
        raise UserError(f"the image {str(path)!r} cannot be read: {error.reason}") from error


def open_regular(path: Path) -> IO[bytes]:
    """A file to read. ValueError for what is no regular one: a FIFO is waited for without end, a device may act."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}
        raise ValueError(f"it is {kinds.get(stat.S_IFMT(mode), 'a device')}, no regular file")
    return path.open("rb")


def read_regular(path: Path, most: int) -> bytes:
    """What is in a file. ValueError for what is no regular one, or has more than `most` bytes."""
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it is larger than {most:,} bytes")
    return content


def _decoded(file: IO[bytes], name: str, max_pixels: int, bit_depth: int | None) -> Image.Image:
    with _opened(file) as image:
        _check_shape(*image.size, max_pixels)
        image.load()
        return _grey_or_rgb(_upright(image), name, bit_depth or _depth_of_tiff(image))


def _opened(file: IO[bytes]) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels stands for it
        try:
            return Image.open(file, formats=FORMATS)
        except UnidentifiedImageError:
            return Image.open(io.BytesIO(_without_broken_notes(file)), formats=("PNG",))


def _without_broken_notes(file: IO[bytes]) -> bytes:
    """A PNG less the EXIF, texts and so on whose checksum is wrong, for which Pillow refuses it (Pillow#5528)."""
    file.seek(0)
    parts = [file.read(8)]
    while parts[0] == b"\x89PNG\r\n\x1a\n" and len(head := file.read(8)) == 8:
        content = file.read(int.from_bytes(head[:4]))
        checksum = file.read(4)
        is_note = bool(head[4] & 32) and head[4:] != b"tRNS"  # transparency, which pixels need
        if not is_note or crc32(head[4:] + content) == int.from_bytes(checksum):
            parts += [head, content, checksum]
    return b"".join(parts)


def _check_shape(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ValueError(f"{width} x {height} pixels are more than data.max_pixels {max_pixels}")
    if max(width, height) > MAX_ELONGATION * min(width, height):
        raise ValueError(f"{width} x {height} pixels are too elongated")


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF says; as stored where the EXIF cannot be read, since its pixels could (Pillow#5528)."""
    method = _transposed(image)
    return image if method is None else image.transpose(method)


def _transposed(image: Image.Image) -> Image.Transpose | None:
    try:
        return _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return None


def _depth_of_tiff(image: Image.Image) -> int | None:
    depth = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE)
    return depth[0] if isinstance(depth, tuple) and len(depth) == 1 and depth[0] < 16 else None


def _grey_or_rgb(image: Image.Image, name: str, bit_depth: int | None) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(np.asarray(image), name, bit_depth))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _eight_bits(values: np.ndarray, name: str, bit_depth: int | None) -> np.ndarray:
    """Grey of up to 16 bits (integers), or floats in [0, 1], as 8 bits. Pillow itself would cut them off at 255."""
    is_integer = values.dtype.kind in "iu"
    top = 65535 if is_integer else 1
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= top):
        raise ValueError(f"pixel values from {low} to {high} have no known meaning")
    if not is_integer:
        return np.round(values * 255).astype(np.uint8)
    if bit_depth is None:
        bit_depth = 16
        _tell_of_depth(int(high), name)
    white = 2**bit_depth - 1
    if high > white:
        raise ValueError(f"it has the value {high}, more than data.bit_depth {bit_depth} allows")
    table = np.round(np.arange(65536) * (255 / white)).clip(0, 255).astype(np.uint8)
    return table[values]


def _tell_of_depth(highest: int, name: str) -> None:
    global _told_of_depth
    if 0 < highest < 4096 and not _told_of_depth:
        _told_of_depth = True
        logger.warning(
            "%s holds 16 bits but no value above 4095: if it and others like it are of 12 bits, say data.bit_depth 12, "
            "else they are nearly black",
            name,
        )


def _first_line(error: Exception) -> str:
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):  # Pillow's own, before max_pixels is looked at
        found = re.search(r"\d+", line)
        pixels = f"{found[0]} pixels" if found else "its pixels"
        return f"{pixels} are more than {LARGEST_MAX_PIXELS}, the most that data.max_pixels can be: make it smaller"
    return line
