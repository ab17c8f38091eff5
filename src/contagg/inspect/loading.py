"""The image that a command is to show."""

from pathlib import Path

from PIL import Image, ImageOps

from contagg.errors import UserError


def open_image(path: str) -> Image.Image:
    """An image file as people see it: upright, in mode L or RGB, alpha over white. UserError for one not readable."""
    if not Path(path).is_file():
        raise UserError(f"there is no image {path!r}")
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
    except Exception as error:  # decoders raise nearly anything on broken files
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(f"the image {path!r} cannot be read: {reason}") from error
    if image.mode == "F" or image.mode.startswith("I"):
        raise UserError(f"the image {path!r} has more than 8 bits a channel (mode {image.mode}); give one of 8 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if image.mode in ("1", "L") else "RGB")
