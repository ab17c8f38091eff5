"""What mixes with what, in one offline page: the command, and `contagg.explore` for any module. Needs no torch."""

import argparse

from contagg.arguments import (
    Command,
    add_weights,
    ending,
    existing_file,
    model,
    numbers,
    whole_above_zero,
    whole_from_zero,
)


def explore(parser: argparse.ArgumentParser) -> None:
    """For `contagg inspect explore`."""
    parser.add_argument("model", type=model, help="a model's name, a run folder, or a weights file of a run")
    parser.add_argument("image", type=existing_file, help="an image file; it is shown to the model whole, resized")
    parser.add_argument(
        "--beside", type=model, action="append", default=[], metavar="MODEL", help="another, side by side"
    )
    parser.add_argument(
        "--epochs", type=numbers, metavar="N,...", help="of a run, from its training states: side by side"
    )
    add_weights(parser)
    parser.add_argument(
        "--layers", action="append", metavar="NAME", help="such as stages.3 or blocks.0.attn; more than once for more"
    )
    parser.add_argument(
        "--size", type=whole_above_zero, metavar="PIXELS", help="of the shorter side (default: its own)"
    )
    parser.add_argument(
        "--fields",
        type=whole_from_zero,
        default=9,
        metavar="N",
        help="places whose receptive field is shown; a backward pass each (default 9)",
    )
    add_page(parser)


def add_page(parser: argparse.ArgumentParser) -> None:
    """--out, --note, --json: of any page."""
    parser.add_argument("-o", "--out", type=ending((".html",)), default="explore.html", help="(default explore.html)")
    parser.add_argument("--note", default="", metavar="TEXT", help="at the page's foot, such as whose photograph it is")
    parser.add_argument("--json", type=ending((".json",)), metavar="FILE", help="the numbers")


COMMANDS = {
    "inspect explore": Command(
        help="what mixes with what, in one page for a browser that needs no network",
        run="contagg.explorer.commands:explore",
        arguments=explore,
    ),
}
