"""`contagg.explore`: a page of anyone's module on one image."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn

from contagg.data.decode import open_image
from contagg.errors import UserError
from contagg.explorer.building import Explored, explored
from contagg.explorer.page import Page
from contagg.inspect.forms import Recording
from contagg.inspect.quiet import quiet
from contagg.inspect.seeing import see, wanted_modules
from contagg.inspect.view import Tell, View, look


def explore(
    model: nn.Module | Mapping[str, nn.Module],
    image: str | Path | Image.Image,
    *,
    preprocessing: Mapping[str, Any] | None = None,
    layers: str | Sequence[str] | None = None,
    size: int | None = None,
    fields: int = 9,
    note: str = "",
) -> Page:
    """A page that shows what a model mixes on an image.

    Args:
        model: A module that takes (1, C, H, W); or several by name, which are shown side by side.
        image: A file, or an image in mode L or RGB.
        preprocessing: As timm's data config has it: `input_size`, `mean`, `std`, `interpolation`; what is missing is
            taken from the model's `pretrained_cfg`.
        layers: Beginnings of the names of the modules to show; None for all.
        size: Pixels of the image's shorter side.
        fields: Places whose receptive field is taken, a backward pass each.
        note: At the page's foot, such as whose photograph it is.

    Raises:
        UserError: nothing that mixes is found, no layer begins so, or the image does not fit the model.

    Examples:
        >>> import contagg
        >>> from PIL import Image
        >>> model = contagg.create("container_light_tiny").eval()
        >>> page = contagg.explore(model, Image.new("RGB", (64, 64)), fields=1)
        >>> page.numbers()[0]["layers"][0]["grid"]
        (56, 56)
    """
    opened = image if isinstance(image, Image.Image) else open_image(image)
    models = _by_name(model)
    found = [
        explore_one(each, look(each, opened, preprocessing or {}, size), name, layers=layers, count=fields)
        for name, each in models.items()
    ]
    return page_of(opened, found, note)


def explore_one(
    model: nn.Module,
    view: View,
    name: str,
    *,
    about: str = "",
    untrained: bool = False,
    layers: str | Sequence[str] | None = None,
    count: int = 9,
) -> Explored:
    """One model on its view of the image, in eval mode, and left as it was."""
    try:
        with quiet(model):
            return explored(
                model, view.tensor, _seeing(layers), name=name, about=about, untrained=untrained, count=count
            )
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "memory" in str(error):
            size = f"{view.size[0]} x {view.size[1]} pixels"
            raise UserError(f"{name}: an image of {size} is too large for the memory; a smaller one fits") from error
        raise


def page_of(image: Image.Image, models: Sequence[Explored], note: str = "") -> Page:
    """Of models that saw the same image. UserError where they saw parts of it that differ in shape."""
    shapes = [model.size[0] / model.size[1] for model in models]
    if max(shapes) - min(shapes) > 0.05:
        sizes = ", ".join(f"{model.name} {model.size[0]} x {model.size[1]}" for model in models)
        raise UserError(f"models side by side need the image in one shape, but see {sizes}; give one --size for all")
    return Page(image=image, models=models, note=note)


def _by_name(model: nn.Module | Mapping[str, nn.Module]) -> Mapping[str, nn.Module]:
    """Modules by name. UserError for none, or for what is no module."""
    models = model if isinstance(model, Mapping) else {type(model).__name__: model}
    if not models:
        raise UserError("explore needs a model, or several by name")
    for name, each in models.items():
        if not isinstance(each, nn.Module):
            raise UserError(
                f"explore takes a torch.nn.Module, but {name} is of {type(each).__name__}; a model that has a name is "
                "made by contagg.create or timm.create_model"
            )
    return models


def _seeing(layers: str | Sequence[str] | None) -> Callable[[nn.Module, Tensor, Tell], Recording]:
    if not layers:
        return lambda model, image, tell: see(model, image, tell=tell)
    names = [layers] if isinstance(layers, str) else layers
    return lambda model, image, tell: see(model, image, wanted_modules(model, names), tell=tell)
