"""The picture of a placement: each block's gate over the steps, and the cost beside the budget."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from contagg.figures import BLUE, GREY, UNSIGNED, VERMILION, new_figure, percent, plain_axes

if TYPE_CHECKING:
    from contagg.placement.handover import Finding


def gates_figure(finding: "Finding") -> Figure:
    """Blocks by steps, dark where a block is likely to be open, and below it the expected cost and its budget."""
    rows = np.array(finding.history)
    steps, cost, chances = rows[:, 0], rows[:, 1], rows[:, 3:].T
    count, budget = len(finding.places), finding.prices.room(finding.budget) / sum(finding.prices.added)
    kept, verb = len(finding.chosen), "keeps its" if len(finding.chosen) == 1 else "keep their"
    figure = new_figure(8, 2.9 + 0.26 * count, f"{kept} of {count} blocks {verb} dynamic affinity")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[0.26 * count + 0.4, 1.5])
    edges = np.append(steps, 2 * steps[-1] - steps[-2] if len(steps) > 1 else steps[-1] + 1)
    mesh = above.pcolormesh(edges, np.arange(count + 1) - 0.5, chances, cmap=UNSIGNED, vmin=0, vmax=1)
    above.set_yticks(range(count), [place.label for place in finding.places], fontsize=8 if count > 12 else 9)
    above.invert_yaxis()
    above.set_ylabel("stage.block")
    for side in above.spines.values():
        side.set_visible(False)
    for number in range(count):
        word = "open" if number in finding.chosen else "closed"
        colour = "black" if number in finding.chosen else GREY
        above.text(edges[-1], number, f"  {word}", va="center", fontsize=8, color=colour, clip_on=False)
    bar = figure.colorbar(mesh, ax=above, pad=0.09, ticks=[0, 0.5, 1])
    bar.set_label("chance to be open")
    below.plot(steps, 100 * cost, color=BLUE)
    below.axhline(100 * budget, color=VERMILION, linestyle="--", linewidth=1)
    below.annotate(
        f"budget {percent(budget, 0)}", (edges[0], 100 * budget), xytext=(4, 4), textcoords="offset points",
        color=VERMILION, fontsize=9,
    )  # fmt: skip
    below.set_ylim(0, 105)
    below.set_xlim(edges[0], edges[-1])
    plain_axes(below, "optimizer steps, up to the choice", "expected cost\n% of all blocks'", whole=True)
    return figure
