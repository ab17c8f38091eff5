"""`contagg inspect explore`."""

import argparse
import json
import logging
from pathlib import Path

from PIL import Image
from torch import nn

from contagg.checkpoints.locate import weights_file
from contagg.checkpoints.models import open_epochs, open_model
from contagg.data.decode import open_image
from contagg.errors import UserError
from contagg.explorer.building import Explored
from contagg.explorer.exploring import explore_one, page_of
from contagg.explorer.page import Page
from contagg.files import write_output
from contagg.inspect.view import look


def explore(arguments: argparse.Namespace) -> None:
    """Write the page of one model or of several."""
    logging.getLogger("contagg").setLevel(logging.INFO)
    if arguments.epochs and arguments.beside:
        raise UserError("--epochs shows epochs of one run side by side; give it or --beside, not both")
    image = open_image(arguments.image)
    words = [arguments.model, *arguments.beside]
    models = _epochs(arguments, image) if arguments.epochs else [_explored(word, arguments, image) for word in words]
    write(page_of(image, models, arguments.note), arguments)


def write(page: Page, arguments: argparse.Namespace) -> None:
    """The page, and the numbers if asked to; says what is in it."""
    page.save(arguments.out)
    for model in page.models:
        hidden = f", {len(model.recording.unshown)} cannot be shown" if model.recording.unshown else ""
        shared = [field.agreement for field in model.fields]
        agreed = f"; composed and true fields have {100 * sum(shared) / len(shared):.0f} % in common" if shared else ""
        print(f"{model.name}: {len(model.recording.layers)} layers{hidden}{agreed}")
        if model.untrained:
            print(f"note: {model.name} has random weights; give a run, or --weights FILE")
    if arguments.json:
        write_output(Path(arguments.json), json.dumps(page.numbers(), indent=1, allow_nan=False).encode())
        print(f"the numbers are in {arguments.json}")
    print(f"the page of {len(page.html) / 1e6:.1f} MB is in {arguments.out}; it opens in any browser of 2023 or newer")


def _explored(word: str, arguments: argparse.Namespace, image: Image.Image) -> Explored:
    network, preprocessing = open_model(word, arguments.weights if weights_file(word) is None else None)
    view = look(network, image, preprocessing, arguments.size)
    untrained = arguments.weights is None and weights_file(word) is None
    name = Path(word).name or word
    return explore_one(
        network,
        view,
        name,
        about=_about(network, view.size),
        untrained=untrained,
        layers=arguments.layers,
        count=arguments.fields,
    )


def _about(network: nn.Module, size: tuple[int, int]) -> str:
    count = sum(parameter.numel() for parameter in network.parameters())
    return f"{count / 1e6:.1f} M parameters, image of {size[0]} x {size[1]}"


def _epochs(arguments: argparse.Namespace, image: Image.Image) -> list[Explored]:
    """Networks of a run as they were after some epochs."""
    models = []
    for epoch, network, preprocessing in open_epochs(arguments.model, arguments.epochs):
        view = look(network, image, preprocessing, arguments.size)
        name = f"{Path(arguments.model).name}, epoch {epoch}"
        models.append(
            explore_one(
                network, view, name, about=_about(network, view.size), layers=arguments.layers, count=arguments.fields
            )
        )
    return models
