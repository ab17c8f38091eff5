"""`contagg inspect affinity` and `contagg inspect static`."""

import argparse
from pathlib import Path

from contagg.checkpoints.locate import weights_file
from contagg.checkpoints.models import open_model
from contagg.data.decode import open_image
from contagg.inspect.figures import draw_affinity
from contagg.inspect.opening import open_shown
from contagg.inspect.static import draw_static
from contagg.inspect.tables import affinity_table, save_rows, static_table


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


def _untrained(arguments: argparse.Namespace) -> bool:
    """Whether the model was named without weights, so that they are random."""
    return arguments.weights is None and weights_file(Path(arguments.model)) is None


def _tell(arguments: argparse.Namespace) -> None:
    if _untrained(arguments):
        print(f"note: {arguments.model} has random weights; give a run, or --weights FILE")
    print(f"the figure is in {arguments.out}")
