"""`contagg inspect queries` for DETR and SMCA-DETR: where queries look in an image, drawn over it."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from contagg.checkpoints.locate import weights_in
from contagg.data.coco.dataset import as_tensor, evaluation_transform
from contagg.data.decode import open_image
from contagg.detection.detr.cross_attention import CrossAttention, caption, cross_attention
from contagg.detection.saved import load_detector
from contagg.errors import UserError, plural
from contagg.figures import new_figure, save_figure
from contagg.inspect.gathering import Head
from contagg.inspect.overlay import MARKER, colour_bar, draw_image, draw_overlay, times_uniform

MOST_ROWS = 24
_SHOWN = 3
_PANEL = 2.9
"""Inches."""


def queries(options: argparse.Namespace) -> None:
    """Draw the cross-attention of chosen queries, by default the surest, and say what they found."""
    saved = load_detector(weights_in(options.checkpoint))
    image = as_tensor(open_image(options.image, saved.bit_depth))
    prepared: Any = evaluation_transform(saved.resizing)(image, {})[0]
    found = cross_attention(saved.model, torch.as_tensor(prepared), options.layer)
    rows = [(query, head) for query in chosen_queries(found, options.queries) for head in options.heads]
    names = [category.name for category in saved.categories]
    original = Image.fromarray(image.permute(1, 2, 0).numpy())
    network: Any = saved.model.network
    figure = looking_figure(original, tuple(prepared.shape[1:]), network.config.stride, found, rows, names)
    save_figure(figure, Path(options.out))
    for query in dict(rows):
        print(f"query {query}: {caption(found.probabilities, query, names)}")
    print(f"the figure is in {options.out}")


def chosen_queries(found: CrossAttention, wanted: Sequence[int] | None) -> list[int]:
    """Queries from 1; without any wanted the three surest. UserError for one that does not exist."""
    count = len(found.probabilities)
    for query in wanted or ():
        if query > count:
            raise UserError(f"query {query} does not exist; there are 1 to {count}")
    if wanted:
        return list(wanted)
    return [int(query) + 1 for query in found.probabilities.amax(1).topk(min(_SHOWN, count)).indices]


def of_head(values: Tensor, query: int, head: Head) -> Tensor:
    """A query's map (h, w) of (M, Q, h, w). UserError for a head that does not exist."""
    if head == "mean":
        return values[:, query - 1].mean(0)
    if head > len(values):
        raise UserError(f"head {head} does not exist; there are 1 to {len(values)}, or mean")
    return values[head - 1, query - 1]


def looking_figure(
    image: Image.Image,
    size: tuple[int, int],
    stride: int,
    found: CrossAttention,
    rows: Sequence[tuple[int, Head]],
    names: Sequence[str],
) -> Figure:
    """A row a query and head: the image with the query's box, its cross-attention, and SMCA's prior on it.

    Args:
        size: (height, width) of the image as the network took it, in which cells are `stride` wide.
    """
    if len(rows) > MOST_ROWS:
        raise UserError(f"a figure of {plural(len(rows), 'row')} is too long; choose queries and heads for {MOST_ROWS}")
    maps = {"cross-attention": found.attention} | ({} if found.prior is None else {"prior": found.prior})
    height = _PANEL * min(max(size[0] / size[1], 0.5), 2.0) + 0.45
    title = f"Where queries look, decoder layer {found.layer}\ncolour: times uniform (1: as if all tokens gave alike)"
    figure = new_figure((1 + len(maps)) * (_PANEL + 0.45), len(rows) * height + 0.7, title)
    for axes, (query, head) in zip(figure.subplots(len(rows), 1 + len(maps), squeeze=False), rows, strict=True):
        draw_image(axes[0], image, size)
        axes[0].set_title(f"query {query}: {caption(found.probabilities, query, names)}", fontsize=9)
        _box(axes[0], found.boxes[query - 1], size)
        heads = f"mean of {plural(len(found.attention), 'head')}" if head == "mean" else f"head {head}"
        for panel, (name, values) in zip(axes[1:], maps.items(), strict=True):
            weights = times_uniform(of_head(values, query, head))
            colour_bar(panel, draw_overlay(panel, weights, stride, image, size))
            _box(panel, found.boxes[query - 1], size)
            panel.set_title(f"{name}, {heads}", fontsize=9)
    return figure


def _box(axes: Axes, box: Tensor, size: tuple[int, int]) -> None:
    x, y, width, height = (box * box.new_tensor([size[1], size[0]]).repeat(2)).tolist()
    corner = (x - width / 2, y - height / 2)
    for colour, line in (("white", 3.0), (MARKER, 1.6)):  # to be seen on any image
        axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=line))
