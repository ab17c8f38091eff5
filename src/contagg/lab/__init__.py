"""The laboratory: networks compared under one recipe. Needs no torch."""

import argparse
from typing import Any

from contagg.arguments import Command, whole_above_zero, whole_from_zero

MATCHED = ("macs", "params")

_MORE = """\
An arm is a network, or whatever else, that is compared: the recipe with some keys changed. --affinity W is the arm
called W with model.options.affinity W; "A, B, C, D" is a word for each of four stages, and [A, [B, C], D, E] one for
each block where the stage is in brackets. --arm light model.name=container_light_tiny data.fraction=0.5 is any other.
The first arm is what the others are compared with.

  contagg compare -c recipe.yaml --affinity dwconv5 attention "attention + dwconv5" --seeds 5
  contagg compare -c recipe.yaml --arm deit model.name=deit_tiny_patch16_224 --arm light model.name=container_light_tiny

Runs of one seed see the same images in the same order, varied alike, and start alike: each parameter that the recipe's
own network has, by name and shape, starts with that network's value (unless the arm says what weights it starts from).
What is compared is the metric at the last epoch: the best of all epochs is the larger the more a run wavers, so it is
told but not compared. Differences are paired by seed, with a 95 % interval (Student's t); p values are Holm's, adjusted
for the number of arms. A difference is called real where the arm's own pairs show it (p at most 0.05), likely where
only one noise for all arms does, noise where neither. Without --match arms differ in cost as well.

FOLDER holds runs.json (a row for each finished run: keys, seed, data, metrics of all epochs, seconds, device, commit),
compare.csv, compare.json, compare.png, epochs.png, and under runs/ each run's own folder. The same command goes on
where it was stopped, also on another machine that has runs.json; rows of another recipe, of other data or of other
code of one's own mixers are refused. Several such commands may work on one FOLDER at a time.

-c FILE and --key value are as for contagg fit: contagg fit --help lists the keys."""


class _Arms(argparse.Action):
    """Keeps --affinity and --arm in the order in which they are given."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        given = [("affinity", [word]) for word in values] if option == "--affinity" else [("arm", list(values))]
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), *given])


def compare(parser: argparse.ArgumentParser) -> None:
    """For `contagg compare`."""
    parser.usage = "contagg compare -c FILE|NAME [--affinity W ...] [--arm NAME KEY=VALUE ...] [options] [--key value]"
    parser.epilog, parser.formatter_class = _MORE, argparse.RawDescriptionHelpFormatter
    parser.set_defaults(arms=[])
    parser.add_argument("--affinity", dest="arms", action=_Arms, nargs="+", metavar="W", help="an arm for each word")
    metavar = ("NAME", "KEY=VALUE")
    parser.add_argument(
        "--arm", dest="arms", action=_Arms, nargs="+", metavar=metavar, help="an arm by its changed keys; repeatable"
    )
    parser.add_argument("--seeds", type=whole_above_zero, default=5, metavar="N", help="runs of each arm (default 5)")
    parser.add_argument("--match", choices=MATCHED, help="scale widths until each arm costs what the recipe's does")
    parser.add_argument("--metric", help="a column of metrics.csv (default: what the task is best in)")
    parser.add_argument("--jobs", type=whole_above_zero, default=1, metavar="N", help="runs at once (default 1)")
    parser.add_argument("-o", "--output", metavar="FOLDER", help="(default compare/NAME of the recipe)")
    parser.add_argument(
        "--rounds", type=whole_from_zero, default=5, metavar="N", help="of measuring time, 0 for none (default 5)"
    )
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--dry-run", action="store_true", help="arms, costs and how long it would take; trains nothing")
    either.add_argument(
        "--report", action="store_true", help="table and pictures of the runs there are; trains nothing"
    )


COMMANDS = {
    "compare": Command(
        help="networks under one recipe, paired seeds: means, intervals, differences, costs, pictures",
        run="contagg.lab.arms:run",
        arguments=compare,
        recipe=True,
    ),
}
