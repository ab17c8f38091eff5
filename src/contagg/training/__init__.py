"""What all tasks share in training, and the command that compares runs. Needs no torch."""

import argparse

from contagg.arguments import Command, existing_folder, output_file
from contagg.training.rows import metric_of


def curves(parser: argparse.ArgumentParser) -> None:
    """For `contagg curves`."""
    parser.add_argument("runs", type=existing_folder, nargs="+", help="run folders")
    parser.add_argument("--metric", default="accuracy", help="a column of metrics.csv (default accuracy)")
    parser.add_argument("--against", choices=("epoch", "step"), default="epoch", help="(default epoch)")
    parser.add_argument("--output", type=output_file, default="curves.png", help="the picture (default curves.png)")


def check_curves(options: argparse.Namespace) -> None:
    """UserError where a run has no such metric."""
    metric_of(options.runs, options.metric)


COMMANDS = {
    "curves": Command(
        help="runs compared, epoch by epoch (Figure 1 left)",
        run="contagg.training.curves:compare",
        arguments=curves,
        check=check_curves,
    ),
}
