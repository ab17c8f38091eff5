"""`contagg inspect statistics`."""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from contagg.checkpoints.locate import weights_file
from contagg.checkpoints.models import open_epochs
from contagg.data.decode import open_image
from contagg.data.folders import find_images
from contagg.errors import UserError
from contagg.figures import save_figure
from contagg.files import write_output
from contagg.inspect.depth import Depth, depth_csv, depth_figure, depth_table, through_depth
from contagg.inspect.opening import open_shown
from contagg.inspect.seeing import wanted_modules
from contagg.inspect.view import look

_TELL_EVERY = 10.0
"""Seconds."""


def statistics(arguments: argparse.Namespace) -> None:
    """See models on images, print their layers' numbers, draw them, save them if asked to."""
    if arguments.epochs and len(arguments.models) > 1:
        raise UserError("--epochs shows epochs of one run; give one model")
    if arguments.weights and len(arguments.models) > 1:
        raise UserError("--weights are those of one model; give one model")
    paths = _spread(find_images([arguments.data]), arguments.images)
    models: list[tuple[str, list[Depth]]] = []
    for name, network, preprocessing in _networks(arguments):
        wanted = wanted_modules(network, arguments.layers) if arguments.layers else lambda layer: True
        models.append((name, through_depth(network, _shown(name, network, preprocessing, paths, arguments), wanted)))
    print(depth_table(models))
    untrained = arguments.weights is None and any(weights_file(Path(model)) is None for model in arguments.models)
    save_figure(depth_figure(models, untrained=untrained), Path(arguments.out))
    if arguments.csv:
        write_output(Path(arguments.csv), depth_csv(models).encode())
        print(f"the numbers are in {arguments.csv}")
    if untrained:
        print("note: a model given by name has random weights; give a run, or --weights FILE")
    print(f"the figure is in {arguments.out}")


def _networks(arguments: argparse.Namespace) -> Iterator[tuple[str, nn.Module, Mapping[str, Any]]]:
    if arguments.epochs:
        for epoch, network, preprocessing in open_epochs(arguments.models[0], arguments.epochs, open_shown):
            yield f"epoch {epoch}", network, preprocessing
        return
    for model in arguments.models:
        network, preprocessing = open_shown(model, arguments.weights)
        yield Path(model).name or model, network, preprocessing


def _shown(
    name: str, network: nn.Module, preprocessing: Mapping[str, Any], paths: Sequence[Path], arguments: Any
) -> Iterator[Tensor]:
    """The images as a network takes them; tells now and then how far it is and how long the rest takes."""
    begin = told = time.monotonic()
    for number, path in enumerate(paths):
        yield look(network, open_image(path, preprocessing.get("bit_depth")), preprocessing, arguments.size).tensor
        now = time.monotonic()
        if now - told > _TELL_EVERY:
            told, left = now, (now - begin) / (number + 1) * (len(paths) - number - 1)
            print(f"{name}: {number + 1} of {len(paths)} images, {left:.0f} s left", file=sys.stderr, flush=True)


def _spread(paths: Sequence[Path], most: int) -> list[Path]:
    count = min(most, len(paths))
    return [paths[index * len(paths) // count] for index in range(count)]
