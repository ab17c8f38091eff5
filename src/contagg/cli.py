"""The `contagg` command. A command's module is imported when it is called, and torch after its arguments are right."""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from contagg.checkpoints.header import task_of
from contagg.errors import UserError, nearest
from contagg.training.recipe_file import read_recipe
from contagg.training.signals import StoppedError


@dataclass(frozen=True, kw_only=True)
class Command:
    """A subcommand: both functions as "module:function".

    Attributes:
        help: One line.
        run: Takes the parsed arguments.
        arguments: Adds arguments to an `argparse.ArgumentParser`; its module must not import torch. None takes none.
    """

    help: str
    run: str
    arguments: str | None = None


COMMANDS = {
    "validate": Command(
        help="accuracy and confusion matrix of a weights file",
        arguments="contagg.classification.arguments:validate",
        run="contagg.classification.evaluation:validate",
    ),
    "predict": Command(
        help="the likeliest classes of images",
        arguments="contagg.classification.arguments:predict",
        run="contagg.classification.predict:predict",
    ),
    "affinity": Command(
        help="what a position of an image gathers from (Figure 1)",
        arguments="contagg.inspect.arguments:affinity",
        run="contagg.inspect.commands:affinity",
    ),
    "static": Command(
        help="learnt static affinities by layer (Figure 1 right)",
        arguments="contagg.inspect.arguments:static",
        run="contagg.inspect.commands:static",
    ),
    "detector-memory": Command(
        help="the most memory that a detector takes for an image and for a training step, on a CPU",
        arguments="contagg.detection.arguments:memory",
        run="contagg.detection.memory:run",
    ),
    "export": Command(
        help="a network as ONNX or torch.export's archive, checked against the model's answers",
        arguments="contagg.export.arguments:arguments",
        run="contagg.export.command:run",
    ),
    "export-weights": Command(
        help="a run's weights as timm and the hub load them",
        arguments="contagg.export.arguments:weights_arguments",
        run="contagg.checkpoints.timm_folder:run",
    ),
    "bench": Command(
        help="networks and their forms side by side: images a second, share of the machine's rate, memory",
        arguments="contagg.benchmark.arguments:bench",
        run="contagg.benchmark.bench:run",
    ),
    "table2": Command(help="Table 2's parameters, the paper's against counted", run="contagg.benchmark.table2:run"),
    "knn": Command(
        help="accuracy of the nearest training images in a network's features (Table 6)",
        arguments="contagg.self_supervised.arguments:knn",
        run="contagg.self_supervised.evaluation:knn",
    ),
    "curves": Command(
        help="runs compared, epoch by epoch (Figure 1 left)",
        arguments="contagg.classification.arguments:curves",
        run="contagg.training.curves:compare",
    ),
}

OF_DETECTORS = {
    "validate": Command(
        help="COCO's twelve numbers of a detector's weights file",
        arguments="contagg.detection.arguments:validate",
        run="contagg.detection.validate:validate",
    ),
    "predict": Command(
        help="what a detector finds in images: COCO's result JSON, and pictures",
        arguments="contagg.detection.arguments:predict",
        run="contagg.detection.predict:predict",
    ),
    "affinity": Command(
        help="where the queries of DETR or SMCA-DETR look in an image, and SMCA's prior",
        arguments="contagg.detection.arguments:affinity",
        run="contagg.detection.detr.cross_attention_figure:affinity",
    ),
}
"""What stands in for COMMANDS where the weights file is a detector's."""

TASKS = {
    "classification": "contagg.classification.recipe:ClassificationRecipe",
    "detection": "contagg.detection.config:DetectionRecipe",
    "dino": "contagg.self_supervised.recipe:DinoRecipe",
}
"""A task's recipe, for `contagg fit`."""

FIT = {
    "classification": "contagg.classification.fit:fit",
    "detection": "contagg.detection.fit:fit",
    "dino": "contagg.self_supervised.fit:fit",
}
"""A task's training: takes its recipe."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. Leaves with 2 and one line for a bad input, 128 + the signal's number when stopped."""
    try:
        _dispatch(list(sys.argv[1:] if arguments is None else arguments))
    except UserError as error:
        _leave(2, f"error: {error}")
    except StoppedError as stop:
        _leave(128 + stop.signal_number if _rank() == "0" else 0, str(stop))
    except KeyboardInterrupt:
        _leave(130, "interrupted")


def _dispatch(arguments: list[str]) -> None:
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name in ("-h", "--help"):
        print(_help())
    elif name == "fit":
        recipe = read_recipe(rest, TASKS)
        _load(FIT[recipe.task])(recipe)
    elif name in COMMANDS:
        tasks = {task_of(word) for word in rest if not word.startswith("-")} if name in OF_DETECTORS else set()
        command = (OF_DETECTORS if "detection" in tasks else COMMANDS)[name]
        parser = _Parser(prog=f"contagg {name}", description=command.help, allow_abbrev=False)
        if command.arguments:
            _load(command.arguments)(parser)
        options = parser.parse_args(rest)
        _load(command.run)(options)
    else:
        raise UserError(f"unknown command {name!r}.{nearest(name, [*COMMANDS, 'fit'])} See contagg --help")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        """One line, with the nearest option for an unknown one."""
        known = [option for action in self._actions for option in action.option_strings]
        wrong = [word for word in message.split() if word.startswith("--")]
        near = nearest(wrong[0], known) if message.startswith("unrecognized") and wrong else ""
        raise UserError(f"{self.prog}: {message}.{near}" if near else f"{self.prog}: {message}")


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {'fit':{width}}  train what a recipe describes: contagg fit -c recipes/....yaml [--key value]"]
    lines += [f"  {name:{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: contagg COMMAND ...", "", *lines, "", "contagg COMMAND --help says more."])


def _load(reference: str) -> Callable[..., Any]:
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


def _rank() -> str:
    return os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or "0"


def _leave(code: int, message: str) -> None:
    """Print and exit; of several processes the first speaks, the others only of errors."""
    where = "" if _rank() == "0" else f" [process {_rank()}]"
    if code == 2 or not where:
        print(f"contagg{where}: {message}", file=sys.stderr, flush=True)
    raise SystemExit(code)
