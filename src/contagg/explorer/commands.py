"""`contagg inspect explore`."""

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

from contagg.checkpoints.locate import weights_file
from contagg.checkpoints.models import open_epochs
from contagg.data.decode import open_image
from contagg.errors import UserError, plural
from contagg.explorer.building import Explored
from contagg.explorer.exploring import explore_one, page_of
from contagg.explorer.page import Page
from contagg.files import write_output
from contagg.inspect.opening import open_shown
from contagg.inspect.view import look


def explore(arguments: argparse.Namespace) -> None:
    """Write the page of one model or of several."""
    if arguments.epochs and arguments.beside:
        raise UserError("--epochs shows epochs of one run side by side; give it or --beside, not both")
    with _spoken():
        models = list(_epochs(arguments) if arguments.epochs else _models(arguments))
        write(page_of(models[0][0], [explored for _, explored in models], arguments.note), arguments)


@contextmanager
def _spoken() -> Iterator[None]:
    """What the package notes of its progress is told to who waits for the command."""
    logger, handler = logging.getLogger("contagg"), logging.StreamHandler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def write(page: Page, arguments: argparse.Namespace) -> None:
    """The page, and the numbers if asked to; says what is in it."""
    page.save(arguments.out)
    for model in page.models:
        hidden = f", {len(model.recording.unshown)} cannot be shown" if model.recording.unshown else ""
        shared = [field.agreement for field in model.fields]
        agreed = f"; composed and true fields have {100 * sum(shared) / len(shared):.0f} % in common" if shared else ""
        print(f"{model.name}: {plural(len(model.recording.layers), 'layer')}{hidden}{agreed}")
        if model.untrained:
            print(f"note: {model.name} has random weights; give a run, or --weights FILE")
    if arguments.json:
        write_output(Path(arguments.json), json.dumps(page.numbers(), indent=1, allow_nan=False).encode())
        print(f"the numbers are in {arguments.json}")
    print(f"the page of {len(page.html) / 1e6:.1f} MB is in {arguments.out}; it opens in any browser of 2023 or newer")


def _models(arguments: argparse.Namespace) -> Iterator[tuple[Image.Image, Explored]]:
    """One after the other, each with the image as it takes it."""
    words = (arguments.model, *arguments.beside)
    if arguments.weights and not any(weights_file(word) is None for word in words):
        raise UserError(f"{arguments.model!r} has weights of its own; give --weights with a model's name only")
    for word in words:
        known = weights_file(word) is not None
        opened = open_shown(word, None if known else arguments.weights)
        untrained = arguments.weights is None and not known
        yield _explored(Path(word).name or word, opened, arguments, untrained=untrained)


def _epochs(arguments: argparse.Namespace) -> Iterator[tuple[Image.Image, Explored]]:
    """Networks of a run as they were after some epochs."""
    for epoch, *opened in open_epochs(arguments.model, arguments.epochs, open_shown):
        yield _explored(f"{Path(arguments.model).name}, epoch {epoch}", opened, arguments)


def _explored(
    name: str, opened: Sequence[Any], arguments: argparse.Namespace, *, untrained: bool = False
) -> tuple[Image.Image, Explored]:
    network, preprocessing = opened
    image = open_image(arguments.image, preprocessing.get("bit_depth"))
    view = look(network, image, preprocessing, arguments.size)
    about = _about(network, view.size)
    layers, count = arguments.layers, arguments.fields
    return image, explore_one(network, view, name, about=about, untrained=untrained, layers=layers, count=count)


def _about(network: nn.Module, size: tuple[int, int]) -> str:
    count = sum(parameter.numel() for parameter in network.parameters())
    return f"{count / 1e6:.1f} M parameters, image of {size[0]} x {size[1]}"
