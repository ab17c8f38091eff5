"""Where a network needs its dynamic affinity: learnt in a run, or found in a trained network. Needs no torch."""

import argparse

from contagg.arguments import Command, run_or_weights


def arguments(parser: argparse.ArgumentParser) -> None:
    """For `contagg place`."""
    parser.add_argument("--budget", help="what an image may cost: 3.2G multiply-adds, 14ms, or 0.6 of all open's")
    parser.add_argument("--at", metavar="HEIGHTxWIDTH", help="the size of that image (default: the run's)")
    parser.add_argument(
        "--from",
        dest="weights",
        type=run_or_weights,
        help="close what a trained network needs least, instead of learning anew",
    )


COMMANDS = {
    "place": Command(
        help="which blocks need attention, within a budget: contagg place -c FILE|NAME --budget 3.2G [--key value]",
        run="contagg.placement.command:place",
        arguments=arguments,
        recipe=True,
    ),
}
