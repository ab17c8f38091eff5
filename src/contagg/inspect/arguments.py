"""The arguments of the commands that show affinities. Needs no torch."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from contagg.files import FIGURE_ENDINGS

Position = tuple[int | float, int | float]

ROW_ENDINGS = (".csv", ".npz")


def affinity(parser: argparse.ArgumentParser) -> None:
    """For `contagg affinity`."""
    parser.add_argument("model", help="a model's name, a run folder, or a weights file that `contagg fit` wrote")
    parser.add_argument("image", help="an image file; it is shown to the model whole, resized")
    parser.add_argument(
        "--at",
        type=position,
        default=(0.5, 0.5),
        metavar="ROW,COL",
        help="whole numbers are pixels of the image from 0, fractions parts of its height and width (default 0.5,0.5)",
    )
    parser.add_argument("--weights", metavar="FILE", help="weights for a model given by name")
    parser.add_argument("--stages", type=numbers, metavar="N,...", help="from 1 (default: the last block of each)")
    parser.add_argument("--blocks", type=numbers, metavar="N,...", help="of each stage, from 1")
    parser.add_argument("--heads", type=heads, default=("mean",), metavar="N,...|mean", help="from 1 (default mean)")
    parser.add_argument("--size", type=number, metavar="PIXELS", help="of the shorter side (default: the model's own)")
    _out(parser, "affinity.png")
    parser.add_argument("--save-rows", type=_ending(ROW_ENDINGS), metavar="FILE", help="the numbers, as .csv or .npz")


def static(parser: argparse.ArgumentParser) -> None:
    """For `contagg static`."""
    parser.add_argument("model", help="a run folder, a weights file that `contagg fit` wrote, or a model's name")
    parser.add_argument("--weights", metavar="FILE", help="weights for a model given by name")
    parser.add_argument(
        "--at",
        type=position,
        default=(0.5, 0.5),
        metavar="ROW,COL",
        help="for dense affinities: whole numbers are tokens of the grid from 0, fractions parts of it "
        "(default 0.5,0.5)",
    )
    parser.add_argument("--layers", type=numbers, metavar="N,...", help="from 1 through the model (default: all)")
    _out(parser, "static.png")


def position(text: str) -> Position:
    """Row and column: whole numbers, or fractions with a decimal point. ArgumentTypeError for anything else."""
    words = text.split(",")
    if len(words) != 2 or not all(re.fullmatch(r"\s*(\d+|\d*\.\d+|\d+\.)\s*", word) for word in words):
        raise argparse.ArgumentTypeError(f"{text!r} is not ROW,COL, such as 120,80 or 0.5,0.25")
    row, column = (float(word) if "." in word else int(word) for word in words)
    return row, column


def number(text: str) -> int:
    """A whole number from 1. ArgumentTypeError for anything else."""
    if not re.fullmatch(r"\s*0*[1-9]\d*\s*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers from 1 with commas between."""
    return tuple(number(word) for word in text.split(","))


def heads(text: str) -> tuple[int | str, ...]:
    """Whole numbers from 1 or `mean`, with commas between."""
    return tuple("mean" if word.strip() == "mean" else number(word) for word in text.split(","))


def _out(parser: argparse.ArgumentParser, default: str) -> None:
    kinds = ", ".join(FIGURE_ENDINGS)
    parser.add_argument(
        "--out", type=_ending(FIGURE_ENDINGS), default=default, help=f"the figure, {kinds} (default {default})"
    )


def _ending(endings: tuple[str, ...]) -> Callable[[str], str]:
    def check(text: str) -> str:
        if Path(text).suffix not in endings:
            raise argparse.ArgumentTypeError(f"{text!r} must end in one of {', '.join(endings)}")
        return text

    return check
