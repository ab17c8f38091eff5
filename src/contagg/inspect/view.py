"""An image as a network is shown it for a figure: whole, resized, with a way from its pixels to a layer's tokens."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from timm.data import resolve_data_config
from timm.models import VisionTransformer
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import normalize, pil_to_tensor, resize, to_dtype

from contagg.affinity import Grid
from contagg.data.transforms import per_channel, to_mode
from contagg.errors import UserError, plural
from contagg.inspect.forms import RecordedLayer, Recording
from contagg.nn.aggregation import affinities, serves_any_size

Position = tuple[int | float, int | float]
"""Row and column: whole numbers count pixels from 0, fractions with a decimal point are parts of height and width."""

Tell = Callable[[Sequence[RecordedLayer], float], None]
"""Is told the layers that were recorded so far, and what part of the network has run, up to 1."""

CENTRE: Position = (0.5, 0.5)

_HALVED = 32
"""Pixels along a token's side where a grid of 4 x 4 patches was halved three times more."""


@dataclass(frozen=True, kw_only=True)
class View:
    """`image` upright and as it was, `tensor` (1, C, H, W) as the network takes it: all of it, resized to H x W."""

    image: Image.Image
    tensor: Tensor

    @property
    def size(self) -> Grid:
        """H and W of the tensor."""
        height, width = self.tensor.shape[2:]
        return height, width

    def place(self, at: Position) -> tuple[float, float]:
        """The centre of the pixel at `at`, in pixels of the tensor. UserError for one outside the image."""
        width, height = self.image.size
        row, column = pixel(at, (height, width), f"the image of {plural(height, 'row')} and {plural(width, 'column')}")
        return (row + 0.5) * self.size[0] / height, (column + 0.5) * self.size[1] / width


class InParts(nn.Module, ABC):
    """A network of several parts, such as a detector: it says itself how it is shown an image, and what it mixes."""

    @abstractmethod
    def look(self, image: Image.Image, size: int | None = None) -> View:
        """As the function `look` does for any other."""

    @abstractmethod
    def see(self, image: Tensor, wanted: Callable[[str], bool], tell: Tell) -> Recording:
        """Its parts' recordings as one, as `contagg.inspect.seeing.see` makes them of a network in one part."""


def look(model: nn.Module, image: Image.Image, preprocessing: Mapping[str, Any], size: int | None = None) -> View:
    """Prepare an image for a model.

    Args:
        image: In mode L or RGB.
        preprocessing: Of a weights file's metadata: `input_size` (C, H, W), `mean`, `std` and `interpolation`; what is
            missing is taken from the model's `pretrained_cfg`.
        size: Pixels of the shorter side. A model that learnt for one grid is resized to fit, to the nearest number of
            whole patches. By default that of `input_size`, where a model of one grid or of another library than timm
            gets the image squeezed into its own size.

    Raises:
        UserError: a network of 2 or more than 3 channels, or a `size` for one that serves no other than its own.
    """
    if isinstance(model, InParts):
        return model.look(image, size)
    config = resolve_data_config({}, model=model) | preprocessing
    channels, *own = config["input_size"]
    width, height = image.size
    scale = (size or min(own)) / min(width, height)
    shape = whole_patches(model, (max(1, round(height * scale)), max(1, round(width * scale))))
    known = hasattr(model, "pretrained_cfg")
    if not known and size is None:
        shape = tuple(own)
    elif known and not serves_any_size(model):
        if size is None:
            shape = tuple(own)
        elif not hasattr(model, "set_input_size"):
            name = type(model).__name__
            raise UserError(f"size {size}: {name} serves images of {own[0]} x {own[1]} pixels only; leave it out")
        else:
            model.set_input_size(shape)  # type: ignore[operator]
    pixels = pil_to_tensor(to_mode(channels)(image))[None]
    pixels = resize(pixels, list(shape), InterpolationMode(config["interpolation"]))
    mean, std = (list(per_channel(config[name], channels)) for name in ("mean", "std"))
    tensor = normalize(to_dtype(pixels, scale=True), mean, std)
    learnt = next(model.parameters(), None)
    return View(image=image, tensor=tensor if learnt is None else tensor.to(learnt))


def pixel(at: Position, size: Grid, what: str) -> Grid:
    """The row and column that `at` means on something of `size`. UserError for one outside of `what`."""
    found = []
    for value, length in zip(at, size, strict=True):
        # 1.0 is the far edge.
        index = min(int(value * length), length - 1) if isinstance(value, float) and 0 <= value <= 1 else value
        if not isinstance(index, int) or not 0 <= index < length:
            raise UserError(
                f"position {at[0]},{at[1]} is outside {what}; whole numbers run from 0 to {size[0] - 1},{size[1] - 1}, "
                "fractions from 0.0 to 1.0"
            )
        found.append(index)
    return found[0], found[1]


def whole_patches(model: nn.Module, size: Grid) -> Grid:
    """The image size nearest to `size` that the model's patches fill; some refuse any other.

    Networks of other people in stages halve their grid five times, and not all take a remainder.
    """
    if affinities(model) and not isinstance(model, VisionTransformer):
        return size
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    patch = patch or getattr(getattr(model, "config", None), "patch_size", None) or _HALVED
    steps = [max(step, _HALVED if step < 8 else step) for step in ((patch, patch) if isinstance(patch, int) else patch)]
    height, width = (max(1, round(pixels / step)) * step for pixels, step in zip(size, steps, strict=True))
    return height, width


def stride_of(model: nn.Module, name: str, size: Grid, grid: Grid) -> float:
    """Pixels of the image along a token's side, for the layer called `name`."""
    for feature in getattr(model, "feature_info", []) if affinities(model) else []:  # our last patches may stick out
        if isinstance(feature, dict) and name.startswith(feature["module"] + "."):
            return feature["reduction"]
    return max(pixels / count for pixels, count in zip(size, grid, strict=True))
