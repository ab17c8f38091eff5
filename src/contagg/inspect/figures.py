"""Figures of affinities: what a position gathers from, over the image."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from contagg.errors import UserError, plural
from contagg.figures import new_figure, save_figure
from contagg.inspect.forms import RecordedLayer
from contagg.inspect.gathering import Gathering, Head, gather
from contagg.inspect.overlay import colour_bar, draw_image, draw_overlay, mark, times_uniform, zoom
from contagg.inspect.view import CENTRE, Position, View, look

MOST_MAPS = 72
_MOST_COLUMNS = 5
_PANEL = 2.6
"""Inches."""

Row = tuple[View, list[Gathering]]


def draw_affinity(
    model: nn.Module,
    image: Image.Image,
    preprocessing: Mapping[str, Any],
    path: str | Path,
    *,
    at: Position = CENTRE,
    stages: Sequence[int] | None = None,
    blocks: Sequence[int] | None = None,
    heads: Sequence[Head] = ("mean",),
    size: int | None = None,
    names: Sequence[str] | None = None,
    untrained: bool = False,
) -> list[Gathering]:
    """Draw what a position of an image gathers from, and return the numbers.

    Each row begins with the image and its position; then follow, for one chosen head after the other, the maps that
    it has: dynamic, static, and the two mixed.

    Args:
        image: In mode L or RGB.
        preprocessing, size: See `view.look`.
        path: Of the figure; its ending says the format.
        at: Row and column: whole numbers are pixels of the image from 0, fractions are parts of its height and width.
        stages, blocks, heads, names: See `gathering.gather`.
        untrained: Whether the weights are random, which the figure then says.

    Raises:
        UserError: a position, stage, block, head or name that does not exist, nothing to show, too many maps.
    """
    view = look(model, image, preprocessing, size)
    gatherings = gather(model, view, at, stages=stages, blocks=blocks, heads=heads, names=names)
    save_figure(affinity_figure([(view, gatherings)], untrained=untrained), Path(path))
    return gatherings


def affinity_figure(images: Sequence[tuple[View, Sequence[Gathering]]], *, untrained: bool = False) -> Figure:
    """The figure of `draw_affinity`, for one image or several. UserError for more maps than a figure can show."""
    gatherings = [gathering for _, chosen in images for gathering in chosen]
    count = sum(len(_shown(gathering)) for gathering in gatherings)
    if count > MOST_MAPS:
        raise UserError(
            f"a figure of {plural(count, 'map')} is too long; choose stages, blocks and heads for {MOST_MAPS}"
        )
    rows = _rows(images)
    columns = 1 + max(_width(row) for row in rows)
    shape = min(max(view.size[0] / view.size[1] for view, _ in images), 2.0)
    height = _PANEL * max(shape, 0.5) + 0.6
    title = "What the marked position gathers from\ncolour: times uniform (1: as much as if all tokens gave alike)"
    signed = any((gathering.maps[name].values < 0).any() for gathering in gatherings for name in _shown(gathering))
    title += "; blue subtracts" if signed else ""
    size = (max(columns * (_PANEL + 0.45), 6.0), len(rows) * height + 0.7)
    figure = new_figure(*size, title, untrained=untrained)
    grid = figure.add_gridspec(len(rows), columns)
    for line, (view, chosen) in enumerate(rows):
        _draw_position(figure.add_subplot(grid[line, 0]), view, chosen)
        panels = [(gathering, name) for gathering in chosen for name in _shown(gathering)]
        for column, (gathering, name) in enumerate(panels, start=1):
            _draw_map(figure.add_subplot(grid[line, column]), view, gathering, name)
    return figure


def _shown(gathering: Gathering) -> list[str]:
    """The maps to draw: of a single affinity itself, which its sum only repeats."""
    names = list(gathering.maps)
    return names if len(names) > 2 else names[:1]


def _width(row: Row) -> int:
    return sum(len(_shown(gathering)) for gathering in row[1])


def _rows(images: Sequence[tuple[View, Sequence[Gathering]]]) -> list[Row]:
    """Maps in rows, those of one head in the same, so that few places stay empty and the figure is not long or wide."""
    widest = max(len(_shown(gathering)) for _, chosen in images for gathering in chosen)

    def rank(rows: list[Row]) -> tuple[int, float]:
        columns = max(_width(row) for row in rows)
        return sum(columns - _width(row) for row in rows), abs(1 + columns - 1.6 * len(rows))

    return min((_packed(images, width) for width in range(widest, max(widest, _MOST_COLUMNS) + 1)), key=rank)


def _packed(images: Sequence[tuple[View, Sequence[Gathering]]], width: int) -> list[Row]:
    """Rows filled one after the other up to `width` maps; an image begins a new one."""
    rows: list[Row] = []
    for view, chosen in images:
        rows.append((view, []))
        for gathering in chosen:
            if rows[-1][1] and _width(rows[-1]) + len(_shown(gathering)) > width:
                rows.append((view, []))
            rows[-1][1].append(gathering)
    return rows


def _draw_position(axes: Axes, view: View, chosen: Sequence[Gathering]) -> None:
    draw_image(axes, view.image, view.size)
    _mark(axes, min(chosen, key=lambda gathering: gathering.own_stride))
    height, width = view.size
    axes.set_title(f"image\n{height} x {width} pixels", fontsize=8.5)


def _draw_map(axes: Axes, view: View, gathering: Gathering, name: str) -> None:
    shown = gathering.maps[name]
    values = times_uniform(shown.values, shown.prefix)
    colour_bar(axes, draw_overlay(axes, values, gathering.stride, view.image, view.size))
    if gathering.row is not None and gathering.column is not None and gathering.own_stride == gathering.stride:
        zoom(axes, values, gathering.row, gathering.column)
    _mark(axes, gathering)
    axes.set_title(f"{gathering.layer.label}: {name}\n{_details(gathering, name)}", fontsize=8.5)


def _mark(axes: Axes, gathering: Gathering) -> None:
    if gathering.row is not None and gathering.column is not None:
        mark(axes, gathering.row, gathering.column, gathering.own_stride)


def _details(gathering: Gathering, name: str) -> str:
    """Grid and heads of the first map, then only the weight or the sum that a map stands for."""
    shown, layer, count = gathering.maps[name], gathering.layer, gathering.heads
    terms = [term for term in gathering.maps if term != "mixed"]
    heads = f"head {gathering.head} of {count}" if gathering.head != "mean" else f"mean of {plural(count, 'head')}"
    if count == 1:
        heads = "one head"
    if shown.sizes:
        heads = heads.replace("mean", "mean |A|") if gathering.head == "mean" else f"{heads}, mean |A|"
    if name == "mixed":
        return f"α {terms[0]} + β {terms[1]}, {heads}"
    details = f"{layer.grid[0]} x {layer.grid[1]} tokens, {heads}" + _asking(layer)
    return details if len(terms) == 1 else f"{details}, {'αβ'[terms.index(name)]} = {shown.weight:.3g}"


def _asking(layer: RecordedLayer) -> str:
    """Who gathers where that is no place of the image: a class token, or of a detector's queries the first."""
    if not layer.targets:
        return ""
    return f"\nby query {layer.targets[0]}" if layer.part else ", by a class token"
