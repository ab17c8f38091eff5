"""The picture of a placement: each block's gate over the steps beside the budget, or what closing each place costs."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from contagg.errors import plural
from contagg.figures import BLUE, GREY, UNSIGNED, VERMILION, new_figure, plain_axes

if TYPE_CHECKING:
    from contagg.placement.handover import Finding
    from contagg.placement.places import Place


def gates_figure(finding: "Finding") -> Figure:
    """Blocks by steps, dark where a block is likely to be open, and below it the expected cost and its budget."""
    rows = np.array(finding.history)
    steps, cost, chances = rows[:, 0], rows[:, 1], rows[:, 3:].T
    count = len(finding.places)
    kept, verb = len(finding.chosen), "keeps its" if len(finding.chosen) == 1 else "keep their"
    figure = new_figure(8, 2.9 + 0.26 * count, f"{kept} of {plural(count, 'block')} {verb} dynamic affinity")
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
    _costs(below, finding, steps, cost)
    below.set_xlim(edges[0], edges[-1])
    return figure


def _costs(axes: Axes, finding: "Finding", steps: np.ndarray, shares: np.ndarray) -> None:
    """What the whole network is expected to cost, between all closed and all open, in the budget's own unit."""
    prices = finding.prices
    words, one = {
        "share": ("expected cost\n% of all open", prices.opened / 100),
        "ms": ("expected cost\nms", 1.0),
        "multiply-adds": _scaled(prices.opened),
    }[finding.budget.unit]
    closed, opened, limit = prices.closed / one, prices.opened / one, finding.limit / one
    axes.plot(steps, closed + (opened - closed) * shares, color=BLUE)
    axes.axhline(limit, color=VERMILION, linestyle="--", linewidth=1)
    axes.annotate("budget", (1, limit), xycoords=("axes fraction", "data"), xytext=(4, 0),
                  textcoords="offset points", va="center", color=VERMILION, fontsize=9)  # fmt: skip
    margin = 0.08 * (opened - closed)
    axes.set_ylim(closed - margin, opened + margin)
    plain_axes(axes, "optimizer steps, up to the choice", words, whole=True)


def _scaled(cost: float) -> tuple[str, float]:
    word, one = next(((w, f) for w, f in (("billions", 1e9), ("millions", 1e6)) if cost >= f), ("thousands", 1e3))
    return f"expected cost\n{word} of\nmultiply-adds", one


def rises_figure(finding: "Finding") -> Figure:
    """Blocks by heads, dark where closing one raises the loss; those that were closed are small."""
    places = finding.places
    rows, most = list(dict.fromkeys(place.name for place in places)), max(*finding.scores, 1e-12)
    columns, heads = max(place.head or 1 for place in places), any(place.head for place in places)
    title = f"dynamic: {len(finding.chosen)} of {len(places)} {'heads' if heads else 'blocks'}"
    figure = new_figure(2.4 + 0.32 * max(columns, 2), 1.5 + 0.32 * len(rows), title)
    axes = figure.subplots()
    for number, (place, rise) in enumerate(zip(places, finding.scores, strict=True)):
        side = 0.9 if number in finding.chosen else 0.4
        corner = (place.head or 1) - side / 2, rows.index(place.name) - side / 2
        colour = UNSIGNED(max(rise, 0) / most)
        axes.add_patch(Rectangle(corner, side, side, facecolor=colour, edgecolor=GREY, linewidth=0.6))
    axes.set(xlim=(0.4, columns + 0.6), ylim=(len(rows) - 0.4, -0.6), aspect="equal")
    axes.set_xticks(range(1, columns + 1) if heads else [])
    axes.set_yticks(range(len(rows)), [_block(next(p for p in places if p.name == name)) for name in rows])
    axes.set_xlabel("head; small: closed" if heads else "small: closed")
    axes.set_ylabel("block" if places[0].stage is None else "stage.block")
    axes.tick_params(length=0, labelsize=8)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(ScalarMappable(Normalize(0, most), UNSIGNED), ax=axes)
    bar.set_label("rise of the loss by closing it")
    return figure


def _block(place: "Place") -> str:
    return str(place.block) if place.stage is None else f"{place.stage}.{place.block}"
