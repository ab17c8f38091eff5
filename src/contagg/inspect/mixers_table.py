"""`contagg inspect mixers`: every word measured, its table, its numbers in a file, and the picture."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from contagg.data.decode import open_image
from contagg.errors import named, printable
from contagg.figures import save_figure
from contagg.files import as_csv, write_output
from contagg.inspect.mixers import GROUPS, Mixer, all_words, grid_of, measure
from contagg.inspect.mixers_figure import mixers_figure
from contagg.inspect.view import CENTRE, Position, pixel
from contagg.output import counted, table

HEADER = ("word", "A", "gathers from", "reach", "distance", "rank", "at most", "cost", "multiply-adds, M", "one grid")
NOTE = "distance in tokens, a mean by |A|; multiply-adds on 56 x 56 tokens of 64 channels, outer projections aside"


def run(arguments: argparse.Namespace) -> None:
    """Measure the words, print their table, save the picture and, if asked to, the numbers."""
    image = open_image(arguments.image) if arguments.image else flower()
    words = all_words(arguments.words)
    mixers = measured(words, image, arguments.at, arguments.steps)
    print(mixers_table(mixers))
    if arguments.save:
        save_numbers(mixers, image, arguments)
        print(f"the numbers are in {arguments.save}")
    if not arguments.steps:
        print("note: without steps these are A of random weights")
    picture = mixers_figure(mixers, image.convert("RGB"), token_at(image, arguments.at), arguments.steps)
    save_figure(picture, Path(arguments.out))
    print(f"the figure is in {arguments.out}")


def flower() -> Image.Image:
    """scikit-learn's photograph of a dahlia, by dany13 (CC BY 2.0)."""
    from sklearn.datasets import load_sample_image

    return Image.fromarray(load_sample_image("flower.jpg"))


def token_at(image: Image.Image, at: Position) -> tuple[int, int]:
    """The token of `grid_of(image)` that a position lies in. UserError for one outside the image."""
    rows, columns = grid_of(image)
    row, column = pixel(at, (image.height, image.width), f"the image of {image.height} rows, {image.width} columns")
    return row * rows // image.height, column * columns // image.width


def measured(words: Sequence[str], image: Image.Image, at: Position = CENTRE, steps: int = 100) -> list[Mixer]:
    """`measure` of each word; on standard error stands how far it is.

    >>> measured(["dwconv5"], flower(), steps=0)[0].reach
    2
    """
    token, image = token_at(image, at), image.convert("RGB")
    found = []
    for word in counted(words, "mixers"):
        with named(f"the mixer {word!r}"):
            found.append(measure(word, image, token, steps))
    return found


def mixers_table(mixers: Sequence[Mixer]) -> str:
    """A line a word, in columns."""
    return f"{table([HEADER, *map(_line, mixers)], left=3)}\n{NOTE}"


def _line(mixer: Mixer) -> tuple[str, ...]:
    return (
        printable(mixer.word),
        "dynamic" if mixer.dynamic else "static",
        GROUPS[mixer.family[1]],
        "" if mixer.reach is None else str(mixer.reach),
        f"{mixer.distance:.2f}",
        str(mixer.rank),
        str(mixer.through),
        mixer.law,
        f"{mixer.multiply_adds / 1e6:.1f}",
        "yes" if mixer.one_grid else "",
    )


def save_numbers(mixers: Sequence[Mixer], image: Image.Image, arguments: argparse.Namespace) -> None:
    """All that was measured, as .json, where the rows of A are as well, or as .csv, a line a word."""
    rows: list[dict[str, Any]] = [
        {
            "word": mixer.word,
            "dynamic": mixer.dynamic,
            "gathers_from": GROUPS[mixer.family[1]],
            "reach": mixer.reach,
            "mean_distance": mixer.distance,
            "rank": mixer.rank,
            "rank_at_most": mixer.through,
            "cost_law": mixer.law,
            "multiply_adds_56x56x64": mixer.multiply_adds,
            "one_grid": mixer.one_grid,
            "parameters": mixer.parameters,
            "noise_left": mixer.noise_left,
        }
        for mixer in mixers
    ]
    if arguments.save.endswith(".csv"):
        write_output(Path(arguments.save), as_csv([rows[0], *(row.values() for row in rows)]))
        return
    for row, mixer in zip(rows, mixers, strict=True):
        row["times_uniform"] = mixer.row.tolist()
    about = {
        "image": arguments.image or "scikit-learn's flower.jpg",
        "grid": grid_of(image),
        "token": token_at(image, arguments.at),
        "steps": arguments.steps,
        "torch": torch.__version__,
    }
    write_output(Path(arguments.save), (json.dumps({**about, "mixers": rows}, indent=1) + "\n").encode())
