"""The model that a command is to show: a name, a run folder, or a weights file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from torch import nn

from contagg.errors import UserError
from contagg.models import create
from contagg.weights import load_into, load_model, read_weights


def open_model(model: str, weights: str | None = None) -> tuple[nn.Module, Mapping[str, Any]]:
    """A model in eval mode and what is known of its preprocessing ({} for a name).

    Args:
        model: A name of ours or timm's, a run folder (its best weights are taken), or a weights file of a run.
        weights: A file for a model given by name; without one its weights are random.

    Raises:
        UserError: there is no such model or file, or they do not fit.
    """
    path = weights_file(Path(model))
    if path is None:
        network = create(model)
        if weights is not None:
            load_into(network, read_weights(weights)[0], repr(weights))
        return network.eval(), {}
    if weights is not None:
        raise UserError(f"{model!r} has weights of its own; give --weights with a model's name only")
    network, metadata = load_model(path)
    return network, metadata.get("preprocessing", {})


def weights_file(path: Path) -> Path | None:
    """The weights that a path means: those of a run folder, or itself; None for what can only be a model's name."""
    if path.is_dir():
        for name in ("best", "last"):
            if (found := path / "checkpoints" / f"{name}.safetensors").is_file():
                return found
        raise UserError(f"{str(path)!r} is no run folder with weights: checkpoints/best.safetensors is missing")
    looks_like_a_path = len(path.parts) > 1 or path.suffix in (".safetensors", ".pth", ".pt", ".ckpt")
    if path.is_file() or (looks_like_a_path and ":" not in str(path)):
        return path
    return None


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
