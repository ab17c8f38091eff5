"""A third task in one module, as anyone's package would bring it: the mean of some numbers. Needs no torch."""

import argparse
from dataclasses import dataclass
from typing import Literal

from contagg.arguments import Command, run_or_weights
from contagg.config import require
from contagg.tasks import Task


@dataclass(frozen=True, kw_only=True)
class MeanConfig:
    """What to average.

    Attributes:
        numbers: One or more.
    """

    numbers: tuple[float, ...] = (1.0, 2.0)

    def __post_init__(self) -> None:
        require(len(self.numbers) > 0, "model.numbers must be one or more")


@dataclass(frozen=True, kw_only=True)
class MeanRecipe:
    """Learn a mean.

    Attributes:
        task: mean.
        model: What to average.
        out: The weights file.
    """

    task: Literal["mean"]
    model: MeanConfig = MeanConfig()
    out: str


def fit(recipe: MeanRecipe) -> None:
    import torch

    from contagg.checkpoints.weights import save_weights

    mean = torch.tensor(recipe.model.numbers).mean()
    save_weights(recipe.out, {"mean": mean}, {"task": recipe.task})


def validate(options: argparse.Namespace) -> None:
    from contagg.checkpoints.weights import read_weights

    print(f"the mean is {read_weights(options.checkpoint)[0]['mean']:.2f}")


def predict(options: argparse.Namespace) -> None:
    from contagg.checkpoints.weights import read_weights

    print(f"{options.number} differs by {options.number - float(read_weights(options.checkpoint)[0]['mean']):.2f}")


def _checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=run_or_weights, help="a weights file")


def _number(parser: argparse.ArgumentParser) -> None:
    _checkpoint(parser)
    parser.add_argument("number", type=float, help="to compare with the mean")


TASK = Task(
    help="learn a mean",
    recipe="toy_task:MeanRecipe",
    fit="toy_task:fit",
    commands={
        "validate": Command(help="say the mean", run="toy_task:validate", arguments=_checkpoint),
        "predict": Command(help="how far a number is off", run="toy_task:predict", arguments=_number),
    },
)
