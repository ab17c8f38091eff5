"""`contagg inspect affinity`, `contagg inspect static` and `contagg inspect statistics`."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from contagg.checkpoints.locate import is_name
from contagg.checkpoints.models import open_epochs, open_model
from contagg.data.decode import open_image
from contagg.data.folders import find_images
from contagg.errors import UserError
from contagg.figures import save_figure
from contagg.files import as_csv, write_output
from contagg.inspect.depth import Depth, depth_figure, depth_rows, depth_table, through_depth
from contagg.inspect.figures import draw_affinity
from contagg.inspect.opening import open_shown
from contagg.inspect.seeing import wanted_modules
from contagg.inspect.static import draw_static
from contagg.inspect.tables import affinity_table, save_rows, static_table
from contagg.inspect.view import look
from contagg.output import counted


def affinity(arguments: argparse.Namespace) -> None:
    """Draw what a position of an image gathers from, print statistics, save the numbers if asked to."""
    model, preprocessing = open_shown(arguments.model, arguments.weights)
    image = open_image(arguments.image, preprocessing.get("bit_depth"))
    gatherings = draw_affinity(
        model,
        image,
        preprocessing,
        arguments.out,
        at=arguments.at,
        stages=arguments.stages,
        blocks=arguments.blocks,
        heads=arguments.heads,
        size=arguments.size,
        names=arguments.layers,
        untrained=_untrained(arguments),
    )
    print(affinity_table(gatherings))
    if arguments.save_rows:
        save_rows(gatherings, arguments.save_rows)
        print(f"the numbers are in {arguments.save_rows}")
    _tell(arguments)


def static(arguments: argparse.Namespace) -> None:
    """Draw the static affinities by layer, and print statistics."""
    model, _ = open_model(arguments.model, arguments.weights)
    untrained = _untrained(arguments)
    rows = draw_static(model, arguments.out, at=arguments.at, chosen=arguments.layers, untrained=untrained)
    print(static_table(rows))
    _tell(arguments)


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
    untrained = arguments.weights is None and any(map(is_name, arguments.models))
    save_figure(depth_figure(models, untrained=untrained), Path(arguments.out))
    if arguments.csv:
        write_output(Path(arguments.csv), as_csv(depth_rows(models)))
        print(f"the numbers are in {arguments.csv}")
    if untrained:
        print("note: a model given by name has random weights; give a run, or --weights FILE")
    print(f"the figure is in {arguments.out}")


def _untrained(arguments: argparse.Namespace) -> bool:
    """Whether the model was named without weights, so that they are random."""
    return arguments.weights is None and is_name(arguments.model)


def _tell(arguments: argparse.Namespace) -> None:
    if _untrained(arguments):
        print(f"note: {arguments.model} has random weights; give a run, or --weights FILE")
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
    """The images as a network takes them."""
    for path in counted(paths, f"images shown to {name}"):
        yield look(network, open_image(path, preprocessing.get("bit_depth")), preprocessing, arguments.size).tensor


def _spread(paths: Sequence[Path], most: int) -> list[Path]:
    count = min(most, len(paths))
    return [paths[index * len(paths) // count] for index in range(count)]
