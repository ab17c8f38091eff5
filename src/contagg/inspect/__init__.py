"""What mixes with what: the commands that show it. Needs no torch."""

import argparse

from contagg.arguments import (
    Command,
    add_figure,
    add_weights,
    ending,
    existing_file,
    heads,
    images,
    model,
    numbers,
    position,
    whole_from_zero,
)
from contagg.arguments import whole_above_zero as number
from contagg.names import unknown_word

ROW_ENDINGS = (".csv", ".npz")


def affinity(parser: argparse.ArgumentParser) -> None:
    """For `contagg inspect affinity`."""
    parser.add_argument("model", type=model, help="a model's name, a run folder, or a weights file of a run")
    parser.add_argument("image", type=existing_file, help="an image file; it is shown to the model whole, resized")
    _at(parser)
    add_weights(parser)
    parser.add_argument("--stages", type=numbers, metavar="N,...", help="from 1 (default: the last block of each)")
    parser.add_argument("--blocks", type=numbers, metavar="N,...", help="of each stage, from 1")
    parser.add_argument(
        "--layers",
        action="append",
        metavar="NAME",
        help="of a module, such as layers.2 or blocks.0.attn: all within",
    )
    parser.add_argument("--heads", type=heads, default=("mean",), metavar="N,...|mean", help="from 1 (default mean)")
    parser.add_argument("--size", type=number, metavar="PIXELS", help="of the shorter side (default: the model's own)")
    add_figure(parser, "affinity.png")
    parser.add_argument("--save-rows", type=ending(ROW_ENDINGS), metavar="FILE", help="the numbers, as .csv or .npz")


def static(parser: argparse.ArgumentParser) -> None:
    """For `contagg inspect static`."""
    parser.add_argument("model", type=model, help="a run folder, a weights file of a run, or a model's name")
    add_weights(parser)
    parser.add_argument(
        "--at",
        type=position,
        default=(0.5, 0.5),
        metavar="ROW,COL",
        help="for dense affinities: whole numbers are tokens of the grid from 0, fractions parts of it "
        "(default 0.5,0.5)",
    )
    parser.add_argument("--layers", type=numbers, metavar="N,...", help="from 1 through the model (default: all)")
    add_figure(parser, "static.png")


def statistics(parser: argparse.ArgumentParser) -> None:
    """For `contagg inspect statistics`."""
    parser.add_argument(
        "models", type=model, nargs="+", metavar="MODEL", help="names, run folders, weights files, side by side"
    )
    parser.add_argument("--data", type=images, required=True, metavar="PATH", help="an image file or a folder of them")
    parser.add_argument("--images", type=number, default=16, metavar="N", help="images at most, evenly spread (16)")
    parser.add_argument("--epochs", type=numbers, metavar="N,...", help="of one run, from its training states")
    parser.add_argument("--layers", action="append", metavar="NAME", help="of a module: all within; more than once")
    add_weights(parser)
    parser.add_argument("--size", type=number, metavar="PIXELS", help="of the shorter side (default: the model's own)")
    add_figure(parser, "statistics.png")
    parser.add_argument("--csv", type=ending((".csv",)), metavar="FILE", help="the numbers")


def mixers(parser: argparse.ArgumentParser) -> None:
    """For `contagg inspect mixers`."""
    parser.add_argument(
        "image", type=existing_file, nargs="?", help="a photograph (default: scikit-learn's of a flower)"
    )
    _at(parser)
    parser.add_argument("--words", type=word_list, default=[], metavar="WORD,...", help="(default: all, see README.md)")
    parser.add_argument(
        "--steps",
        type=whole_from_zero,
        default=100,
        metavar="N",
        help="each mixer learns to take noise from the photograph (default 100: two minutes; 0: random weights)",
    )
    parser.add_argument("--save", type=ending((".json", ".csv")), metavar="FILE", help="the numbers, as .json or .csv")
    add_figure(parser, "mixers.png")


def word_list(text: str) -> list[str]:
    """Words of affinities with commas between. ArgumentTypeError for one that there is not."""
    found = [word.strip() for word in text.split(",") if word.strip()]
    if problem := next(filter(None, map(unknown_word, found)), None):
        raise argparse.ArgumentTypeError(f"{problem} See contagg.list_affinities()")
    return found


def _at(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--at",
        type=position,
        default=(0.5, 0.5),
        metavar="ROW,COL",
        help="whole numbers are pixels of the image from 0, fractions parts of its height and width (default 0.5,0.5)",
    )


COMMANDS = {
    "inspect affinity": Command(
        help="what a position of an image gathers from (Figure 1)",
        run="contagg.inspect.commands:affinity",
        arguments=affinity,
    ),
    "inspect statistics": Command(
        help="layers in numbers through the depth: locality, entropy, rank, Toeplitz share, alpha : beta",
        run="contagg.inspect.commands:statistics",
        arguments=statistics,
    ),
    "inspect static": Command(
        help="learnt static affinities by layer (Figure 1 right)",
        run="contagg.inspect.commands:static",
        arguments=static,
    ),
    "inspect mixers": Command(
        help="every mixer by a word side by side, over a photograph",
        run="contagg.inspect.mixers_table:run",
        arguments=mixers,
    ),
}
