"""The static affinities of a model, layer by layer, without an image (Figure 1 right)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor, nn

from contagg.affinity import Affinity, Grid
from contagg.affinity.base import tokens_on
from contagg.errors import UserError, plural
from contagg.figures import SIGNED, UNSIGNED, bare, new_figure, save_figure
from contagg.inspect.aggregations import Layer, Term, aggregations
from contagg.inspect.overlay import MARKER, minus_signs
from contagg.inspect.statistics import Statistics, form_statistics, sample_positions
from contagg.inspect.view import CENTRE, Position, pixel

HEADS_SHOWN = 6
ANY_GRID: Grid = (14, 14)
"""Shows a static affinity that reaches anywhere on any grid."""
_PANEL = 1.05
"""Inches."""
_LARGEST_WITH_SIGNS = 9
"""Cells along a side of a map up to which each negative one has its minus."""


@dataclass(frozen=True, kw_only=True)
class StaticRow:
    """A static affinity's row for one position.

    Attributes:
        layer: The aggregation.
        number: Of the layer, from 1, through the whole model.
        term: The static affinity and its weight in A.
        values: (M, H, W), not weighted: over the learnt grid for a dense affinity, the kernel for a convolution.
        row, column: The position; the centre of a kernel.
        statistics: Of the affinity over the grid.
    """

    layer: Layer
    number: int
    term: Term
    values: Tensor
    row: int
    column: int
    statistics: Statistics


def draw_static(
    model: nn.Module,
    path: str | Path,
    *,
    at: Position = CENTRE,
    chosen: Sequence[int] | None = None,
    untrained: bool = False,
) -> list[StaticRow]:
    """Draw the static affinities: one row per layer; its mean over heads, then some heads. Returns the numbers.

    Args:
        path: Of the figure; its ending says the format.
        at: For dense affinities, row and column of the grid's tokens; fractions are parts of its height and width.
        chosen: Numbers of layers, from 1 through the whole model; all by default.
        untrained: Whether the weights are random, which the figure then says; otherwise it calls them learnt.

    Raises:
        UserError: a layer or position that does not exist, or a model without static affinities.
    """
    rows = static_rows(model, at, chosen)
    save_figure(static_figure(rows, untrained=untrained), Path(path))
    return rows


def static_rows(model: nn.Module, at: Position = CENTRE, chosen: Sequence[int] | None = None) -> list[StaticRow]:
    """The rows of chosen layers' static affinities, as `draw_static` explains."""
    found = aggregations(model)
    numbered = {
        number: (layer, terms)
        for number, layer in enumerate(found, start=1)
        if (terms := [term for term in layer.terms() if not term.affinity.dynamic])
    }
    if not numbered:
        raise UserError(f"{type(model).__name__} has no static affinity in any of its {plural(len(found), 'layer')}")
    for number in chosen or ():
        if number not in numbered:
            problem = "has no static affinity" if 1 <= number <= len(found) else "does not exist"
            raise UserError(f"layer {number} {problem}; the layers with one are {', '.join(map(str, numbered))}")
    return [
        _row(layer, number, term, at)
        for number, (layer, terms) in numbered.items()
        if chosen is None or number in chosen
        for term in terms
    ]


def static_figure(rows: Sequence[StaticRow], *, untrained: bool = False) -> Figure:
    """The figure of `draw_static`; many layers stand in two columns."""
    heads = max(len(row.values) for row in rows)
    wide = 2 + (min(heads, HEADS_SHOWN) if heads > 1 else 0)  # the label, the mean, some heads
    columns = -(-len(rows) // (10 if heads > 1 else 6))
    length = -(-len(rows) // columns)
    size = (max(columns * wide * _PANEL * 1.1, 6), length * _PANEL * 1.25 + 1.1)
    kind = "Static affinities" if untrained else "Learnt static affinities"
    figure = new_figure(*size, f"{kind}: what a position gathers from in any image", untrained=untrained)
    grid = figure.add_gridspec(length, columns * wide)
    for index, row in enumerate(rows):
        column, line = divmod(index, length)
        _draw_row([figure.add_subplot(grid[line, column * wide + place]) for place in range(_panels(row))], row)
    _draw_scales(figure, means=heads > 1, signed=any((row.values < 0).any() for row in rows))
    return figure


def _panels(row: StaticRow) -> int:
    """The label, the mean over heads, and some heads; or the label and the one head."""
    return 2 + (min(len(row.values), HEADS_SHOWN) if len(row.values) > 1 else 0)


def _draw_scales(figure: Figure, *, means: bool, signed: bool) -> None:
    """A bar for each scale that the figure uses; their ends are the number above each map."""
    unsigned = (Normalize(0, 1), UNSIGNED, [0, 1], ["0", "the number above a map"])
    both = (Normalize(-1, 1), SIGNED, [-1, 0, 1], ["−", "0", "+ the number above a map"])
    chosen = ([unsigned] if means or not signed else []) + ([both] if signed else [])
    panels = list(figure.axes)
    for norm, palette, ticks, labels in chosen:
        scale = ScalarMappable(norm, palette)
        bar = figure.colorbar(scale, ax=panels, location="bottom", fraction=0.03, aspect=60, pad=0.02, shrink=0.6)
        bar.set_ticks(ticks, labels=labels)
        bar.ax.tick_params(labelsize=8)


def _draw_row(line: Sequence[Axes], row: StaticRow) -> None:
    label, mean, *others = line
    label.set_axis_off()
    text = f"layer {row.number}\n{row.layer.label}"
    names = [term.name for term in row.layer.terms()]
    if len(names) == 2:
        text += f"\n{'αβ'[names.index(row.term.name)]} = {row.term.weight.mean().item():.3g}"
    label.text(1, 0.5, text, ha="right", va="center", fontsize=8, transform=label.transAxes)
    count = len(row.values)
    if count == 1:
        _draw_map(mean, row, "one head", row.values[0])
    else:
        _draw_map(mean, row, "mean |A|", row.values.abs().mean(0))  # kernels of both signs would cancel
        for axes, index in zip(others, np.linspace(0, count - 1, len(others)).round(), strict=True):
            _draw_map(axes, row, f"head {index + 1:.0f}", row.values[int(index)])


def _draw_map(axes: Axes, row: StaticRow, name: str, values: Tensor) -> None:
    peak = values.abs().max().item()
    signed = bool((values < 0).any())
    palette, low = (SIGNED, -peak) if signed else (UNSIGNED, 0.0)
    axes.imshow(values.numpy(), cmap=palette, vmin=low, vmax=peak or 1, interpolation="nearest")
    bare(axes)
    if max(values.shape) <= _LARGEST_WITH_SIGNS:
        minus_signs(axes, values, 5)
    if row.term.affinity.local is None:
        # Arrows at the edges: a frame would hide the weight of the position itself.
        style: dict[str, Any] = {"color": MARKER, "markersize": 4, "clip_on": False, "zorder": 5}
        axes.plot(row.column, len(values) - 0.5, "^", **style)
        axes.plot(-0.5, row.row, ">", **style)
    axes.set_title(f"{name}, {'±' if signed else ''}{peak:.2g}", fontsize=7, pad=2)


@torch.no_grad()
def _row(layer: Layer, number: int, term: Term, at: Position) -> StaticRow:
    affinity = term.affinity
    grid, prefix = _grid(affinity)
    if affinity.local is not None:
        row, column = grid[0] // 2, grid[1] // 2
        places = [(row, column)]
    else:
        row, column = pixel(at, grid, f"the grid of {grid[0]} x {grid[1]} tokens of layer {number}")
        places = sample_positions(grid)
    # What the tokens hold is nothing to a static affinity.
    projection = layer.module.value
    tokens = projection.weight.new_zeros(1, tokens_on(grid, prefix), projection.in_features)
    form = affinity.form(tokens, grid)
    if form is None:
        raise UserError(f"layer {number}: a matrix of {tokens.shape[1]} tokens and {affinity.heads} heads is too large")
    index = torch.tensor([prefix + row * grid[1] + column])
    values = form.rows(index)[:, 0, prefix:].unflatten(1, grid).float().cpu()
    statistics = form_statistics(form, grid, prefix, places)
    return StaticRow(
        layer=layer, number=number, term=term, values=values, row=row, column=column, statistics=statistics
    )


def _grid(affinity: Affinity) -> tuple[Grid, int]:
    """The smallest grid that shows all of a static affinity, and the tokens before it."""
    if affinity.local is not None:
        return (2 * affinity.local + 1, 2 * affinity.local + 1), 0
    return affinity.grid or ANY_GRID, affinity.prefix
