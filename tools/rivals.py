"""`python -m tools.rivals FILE RUN...`: what other rules say of where a trained network needs its dynamic affinity.

Each RUN is one of `contagg fit` with a mixture in the places in question. FILE gets a row a run: its seed, and for each
place, such as 3.1, a number a rule, the larger the more it is needed:

alpha        |alpha| / (|alpha| + |beta|), the learnt weights of the mixture (Eq. 7)
entropy      1 - H / log N, of the mean row of A over N tokens: 0 where it gathers from all alike
cosine       1 - the cosine between what enters the block's aggregation on the main path and what leaves it
importance   by how much the loss of training images rises where the place is closed
"""

import argparse
import math
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from contagg.affinity import Grid
from contagg.errors import UserError
from contagg.nn.block import Block
from contagg.placement.after import Trial, trained_job
from contagg.placement.places import Place, find_places
from contagg.tasks import recipes
from contagg.training.recipe_file import read_recipe
from tools.json_rows import put_row

Scores = dict[str, dict[str, float]]
"""Of each rule, by place."""


def scores(recipe: Any) -> Scores:
    """Of the network of a recipe, whose weights `model.init_weights` names.

    Raises:
        UserError: some of its weights are not in that file.
    """
    job = trained_job(recipe)
    network = job.networks[0]
    places = find_places(network)
    trial = Trial(job, places, recipe, torch.device("cpu"))
    everything = set(range(len(places)))
    found: Scores = {
        "alpha": {place.label: alpha_share(place, network) for place in places},
        "entropy": {},
        "cosine": {},
    }
    base = _watch(trial, places, network, found)
    found["importance"] = {
        place.label: fmean(trial.losses(everything - {number})) - base for number, place in enumerate(places)
    }
    return found


def alpha_share(place: Place, network: nn.Module) -> float:
    """The dynamic part's share of the mixture's weights, the mean over heads."""
    mixture = place.mixture(network)
    weights = {affinity.dynamic: weight.detach().abs() for affinity, weight in mixture.terms()}
    return float((weights[True] / (weights[True] + weights[False])).mean())


@torch.no_grad()
def sharpness(affinity: Any, tokens: Tensor, grid: Grid) -> float:
    """1 - H / log N of A's rows over N tokens (B, N, C), the mean over images, heads and rows."""
    rows = affinity.rows(tokens, grid, torch.arange(tokens.shape[1])).abs()
    share = rows / rows.sum(-1, keepdim=True)
    return 1 - float(torch.special.entr(share).sum(-1).mean()) / math.log(max(2, tokens.shape[1]))


def change(tokens: Tensor, added: Tensor) -> float:
    """1 - the cosine of tokens (B, N, C) before and after something is added to them, the mean over tokens."""
    return 1 - float(torch.cosine_similarity(tokens, tokens + added, dim=-1).mean())


def _watch(trial: Trial, places: list[Place], network: nn.Module, found: Scores) -> float:
    """Entropy and cosine of each place, on the last of the trial's batches; the loss of all with all open."""
    with ExitStack() as hooks:
        for place in places:
            block = network.get_submodule(place.name.rpartition(".")[0])
            assert isinstance(block, Block)
            for hook in _hooks(block, place, network, found):
                hooks.enter_context(hook)
        return fmean(trial.losses(range(len(places))))


def _hooks(block: Block, place: Place, network: nn.Module, found: Scores) -> list[Any]:
    entered: list[Tensor] = []
    dynamic = place.mixture(network).dynamic_part()

    def enters(_: nn.Module, inputs: Any) -> None:
        tokens, grid, *_rest = inputs
        entered[:] = [block.position(tokens, grid) if block.position is not None else tokens]

    def gathers(_: nn.Module, inputs: Any, output: Tensor) -> None:
        found["entropy"][place.label] = sharpness(dynamic, inputs[0][:16], inputs[1])
        found["cosine"][place.label] = change(entered[0], block.scale1(output))

    return [block.register_forward_pre_hook(enters), block.aggregation.register_forward_hook(gathers)]


def main(arguments: list[str] | None = None) -> None:
    """One row a run; a run that has a row is measured again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--root", help="where the run's data lie now")
    given = parser.parse_args(arguments)
    for run in given.runs:
        if not (run / "recipe.yaml").is_file():
            raise UserError(f"{run} is no run folder of contagg fit: it has no recipe.yaml")
        moved = [] if given.root is None else [f"--data.root={given.root}"]
        keys = ["-c", str(run / "recipe.yaml"), f"--model.init_weights={run}", *moved]
        recipe: Any = read_recipe(keys, recipes())
        found = {"seed": recipe.run.seed, "affinity": recipe.model.options["affinity"], "scores": scores(recipe)}
        put_row(given.file, found, lambda row: (str(row["affinity"]), row["seed"]))
        print(f"{run}: seed {found['seed']}")
        for rule, by_place in found["scores"].items():
            print(f"  {rule:<12}" + "  ".join(f"{place} {value:.4f}" for place, value in by_place.items()))


if __name__ == "__main__":
    main()
