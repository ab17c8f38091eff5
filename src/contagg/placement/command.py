"""`contagg place`: reads what is asked for before torch is imported, then learns, or closes after the fact."""

import argparse
from collections.abc import Sequence
from typing import Any

from contagg.arguments import load
from contagg.config import check_references
from contagg.errors import UserError
from contagg.output import lossy_output
from contagg.placement.config import placement_recipes
from contagg.tasks import task_named
from contagg.training.recipe_file import read_recipe

OPTIONS = ("budget", "at", "from")


def place(options: argparse.Namespace) -> None:
    """Learn where the dynamic affinity goes, or with `--from` find it in trained weights.

    Raises:
        UserError: as `contagg fit`, or the task, the network or the run's settings are none that can be placed.
    """
    recipe = read_recipe(_as_keys(options), placement_recipes(), also=OPTIONS)
    check_references(recipe)
    _check(recipe, task_named(recipe.task).job)
    where = "contagg.placement.after:after" if options.weights else "contagg.placement.run:run"
    with lossy_output():
        load(where)(recipe)


def _as_keys(options: argparse.Namespace) -> Sequence[str]:
    """The command's own options among a recipe's keys, where they are checked and kept with the run."""
    given = {"placement.budget": options.budget, "placement.at": options.at, "model.init_weights": options.weights}
    return [*options.recipe, *(f"--{key}={value}" for key, value in given.items() if value is not None)]


def _check(recipe: Any, job: str) -> None:
    run = recipe.run
    if not job:
        raise UserError(f"the task {recipe.task!r} cannot be placed: it does not say what job it makes of a recipe")
    if run.compile:
        raise UserError("run.compile must be false: a placement changes the network from step to step")
    if getattr(recipe.model, "probe", False):
        raise UserError("model.probe must be false: a probe trains no block")
    if run.world_size > 1 and run.strategy == "ddp":
        raise UserError(
            "run.strategy ddp waits for gradients that closed blocks do not have: leave it at auto, which becomes "
            "ddp_find_unused_parameters_true"
        )
