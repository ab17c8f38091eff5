"""`python -m tools.figure1_right RUN...`: what the static affinities of DeiT + PAM have learnt (Figure 1 right).

Adds a row for each run, by its seed, to results/imagenette/vit/static.json: of each layer the share of |A| within 3 x 3
tokens and the mean distance in tokens, learnt and in the same network before training, and of the first and the last
layer the rows of four tokens. `python -m tools.twins` sets these in docs/results.md.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import nn

import contagg
from contagg.affinity import Grid
from contagg.checkpoints.models import open_model
from contagg.classification.recipe import ClassificationRecipe
from contagg.errors import UserError, plural
from contagg.figures import BLUE, SIGNED, VERMILION, bare, new_figure, plain_axes
from contagg.inspect.static import StaticRow, static_rows
from contagg.lab.intervals import Interval, interval
from contagg.tasks import recipes
from contagg.training.recipe_file import read_recipe
from contagg.training.rows import read_metrics
from tools.comparisons import with_interval
from tools.json_rows import put_row, read_rows
from tools.pictures import ROOT

STATIC = Path("imagenette/vit/static.json")
"""Below results/."""
AT = ((0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75))
"""The tokens whose rows are shown, as parts of the grid."""
NUMBERS = {"within3": "share within 3 x 3 tokens, %", "distance": "mean distance, tokens"}


def learnt_row(run: Path) -> dict[str, Any]:
    """Of a finished run. UserError for what is none, or has no dense static affinity."""
    recipe = _recipe_of(run)
    model, seed = recipe.model, recipe.run.seed
    torch.manual_seed(seed)
    start = static_rows(contagg.create(model.name, img_size=model.image_size, **model.options))
    network = open_model(str(run))[0]
    learnt = static_rows(network)
    if any(row.term.affinity.local is not None for row in learnt):
        raise UserError(f"{run} has kernels, whose reach is given: give a run of DeiT + PAM")
    return {
        "seed": seed,
        "start": [_numbers(row) for row in start],
        "learnt": [_numbers(row) for row in learnt],
        "rows": {str(row.number): _rows_shown(network, row.number) for row in (learnt[0], learnt[-1])},
    }


def _recipe_of(run: Path) -> ClassificationRecipe:
    path = run / "recipe.yaml"
    if not path.is_file():
        raise UserError(f"{run} is no run folder: it has no recipe.yaml")
    recipe = read_recipe(["-c", str(path)], recipes())
    if recipe.task != "classification":
        raise UserError(f"{run} is of the task {recipe.task!r}: give a run of DeiT + PAM")
    epoch = max(epoch for column in read_metrics(run).values() for epoch, _ in column)
    if epoch < recipe.optimization.epochs:
        raise UserError(f"{run} is at epoch {epoch} of {recipe.optimization.epochs}: it is not finished")
    return recipe


def read_static(path: Path) -> list[dict[str, Any]]:
    """The rows that there are. UserError for such that are none, or of networks of other depths."""
    rows = read_rows(path)
    for row in rows:
        if not (isinstance(row.get("seed"), int) and isinstance(row.get("rows"), dict) and row["rows"]):
            raise UserError(f"{path}: a row has no seed, or no rows of tokens")
        for which in ("start", "learnt"):
            layers = row.get(which)
            if not isinstance(layers, list) or not layers or len(layers) != len(rows[0]["learnt"]):
                raise UserError(f"{path}: {which!r} of seed {row['seed']} has not the layers that other rows have")
    return rows


def _numbers(row: StaticRow) -> dict[str, float]:
    """The mean over heads."""
    return {name: getattr(row.statistics, name).mean().item() for name in NUMBERS}


def _rows_shown(network: nn.Module, layer: int) -> list[dict[str, Any]]:
    """Of a layer, for each token of `AT`: where it lies and its row, the mean over heads."""
    found = [static_rows(network, at, [layer])[0] for at in AT]
    return [{"at": [row.row, row.column], "values": np.round(row.values.mean(0).numpy(), 5).tolist()} for row in found]


def evenly_within3(grid: Grid) -> float:
    """The share within 3 x 3 tokens of a matrix whose weights are all alike, the mean over the grid.

    >>> evenly_within3((1, 3)) == (2 + 3 + 2) / 9
    True
    """
    pairs = [sum(min(length - 1, place + 1) - max(0, place - 1) + 1 for place in range(length)) for length in grid]
    return pairs[0] * pairs[1] / (grid[0] * grid[1]) ** 2


def of_layers(rows: Sequence[Mapping[str, Any]], name: str, which: str) -> list[Interval]:
    """A number of each layer over seeds: `learnt`, at the `start`, or what was gained since (`change`)."""
    scale = 100 if name == "within3" else 1

    def value(row: Mapping[str, Any], layer: int) -> float:
        if which == "change":
            return scale * (row["learnt"][layer][name] - row["start"][layer][name])
        return scale * row[which][layer][name]

    return [interval([value(row, layer) for row in rows]) for layer in range(len(rows[0]["learnt"]))]


def section(results: Path) -> list[str]:
    """Lines of docs/results.md."""
    rows = read_static(results / STATIC)
    lines = ["## Figure 1, right: what the static affinities learn", ""]
    lines += [
        "Paper: the learnt rows of the first layers of DeiT + PAM are local, like convolutions', without having been "
    ]
    lines[-1] += "told where tokens lie."
    command = ["", "```", "python -m tools.figure1_right results/imagenette/vit/runs/deit_pam-*/seed_*", "```", ""]
    if not rows:
        return [*lines, "", "Not run yet.", *command]
    lines += [
        f"Here: a trace of it in appendix B's {len(rows)} runs, not visible in the rows drawn, against the start.",
        "",
    ]
    lines += [f"| layer | {' | '.join(f'{words} | gained' for words in NUMBERS.values())} |"]
    lines += ["|---" * (1 + 2 * len(NUMBERS)) + "|"]
    for layer in range(len(rows[0]["learnt"])):
        cells = [str(layer + 1)]
        for name in NUMBERS:
            cells += [with_interval(of_layers(rows, name, "learnt")[layer])]
            cells += [with_interval(of_layers(rows, name, "change")[layer], "+")]
        lines += [f"| {' | '.join(cells)} |"]
    gained = of_layers(rows, "within3", "change")
    local = [str(layer) for layer, each in enumerate(gained, 1) if each.low > 0]
    if local:
        layers = f"{plural(len(local), 'layer')} ({', '.join(local)})"
        lines += ["", f"More local than before training, by more than the noise of seeds: {layers}."]
    else:
        lines += ["", "No layer is more local than before training by more than the noise of seeds."]
    return [*lines, "", "![Learnt rows and their locality](pictures/twin_figure1_right.png)", *command]


def picture(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Rows of the first and the last layer of one run, and the locality of all layers over seeds."""
    shown: Mapping[str, Any] = rows[0]["rows"]
    figure = new_figure(10, 3.6)
    grid = figure.add_gridspec(len(shown), len(AT) + 2, width_ratios=[1] * len(AT) + [0.25, 2.2])
    for line, (layer, maps) in enumerate(shown.items()):
        peak = max(np.abs(each["values"]).max() for each in maps)
        for place, each in enumerate(maps):
            axes = figure.add_subplot(grid[line, place])
            axes.imshow(each["values"], cmap=SIGNED, vmin=-peak, vmax=peak, interpolation="nearest")
            row, column = each["at"]
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, ec="black", lw=1.2))
            bare(axes)
            if not place:
                axes.set_ylabel(f"layer {layer}, ±{peak:.2g}", fontsize=9)
    first = next(iter(shown.values()))[0]["values"]
    _draw_locality(figure.add_subplot(grid[:, len(AT) + 1]), rows, (len(first), len(first[0])))
    return figure


def _draw_locality(axes: Axes, rows: Sequence[Mapping[str, Any]], grid: Grid) -> None:
    for which, colour, name in (("learnt", VERMILION, "learnt"), ("start", BLUE, "before training")):
        found = of_layers(rows, "within3", which)
        layers = np.arange(1, len(found) + 1)
        reach = [0.0 if np.isnan(each.low) else each.high - each.mean for each in found]
        axes.errorbar(layers, [each.mean for each in found], reach, fmt="o-", color=colour, capsize=3, label=name)
    axes.axhline(100 * evenly_within3(grid), color="0.6", lw=1, ls=":", label="all weights alike")
    axes.set_xticks(layers)
    axes.set_ylim(0)
    axes.legend(frameon=False, fontsize=8)
    plain_axes(axes, "layer", "|A| within 3 x 3 tokens, %", f"{len(rows)} seeds")


def main(arguments: list[str] | None = None) -> None:
    """Add runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders of DeiT + PAM")
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    given = parser.parse_args(arguments)
    for run in given.runs:
        try:
            put_row(given.results / STATIC, learnt_row(run), lambda row: row["seed"])
        except UserError as error:
            parser.error(str(error))
    print(given.results / STATIC)


if __name__ == "__main__":
    main()
