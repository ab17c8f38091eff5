"""Detections drawn over an image: masks, boxes, and names with scores, all within the picture."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.ops import box_iou
from torchvision.transforms.v2 import functional as F
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from contagg.detection.batching import Detections
from contagg.detection.evaluation import in_file_pixels, masks_of
from contagg.figures import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, new_figure, percent, save_figure
from contagg.files import write_output

COLOURS = (ORANGE, SKY, GREEN, "#F0E442", BLUE, VERMILION, PURPLE)
_DARK = (GREEN, BLUE, VERMILION)  # on which names are white
_SIDES = 640, 1600
"""Pixels of the longer side at least and at most: text has one size, and small pictures would be all text."""
_LEAST = 100  # of either side: a strip is drawn on white, with room for captions
_LETTERS = 13
_FONT = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"


def draw(image: np.ndarray, found: Detections, names: Sequence[str], least_score: float) -> np.ndarray:
    """An image uint8 (H, W, 3), enlarged if small, with what was found, in its pixels, at `least_score` or more."""
    chosen = {key: value[found["scores"] >= least_score].float().cpu() for key, value in found.items()}
    height, width = image.shape[:2]
    scale = min(max(_SIDES[0] / max(height, width), 1), max(_SIDES[1] / max(height, width), 1e-3))
    size = [max(1, round(length * scale)) for length in (height, width)]
    canvas: Tensor = F.resize(torch.from_numpy(image.copy()).permute(2, 0, 1), size, antialias=True)
    canvas = F.pad(canvas, [0, 0, *(max(0, _LEAST - length) for length in reversed(size))], fill=255)
    if not len(chosen["boxes"]):
        return canvas.permute(1, 2, 0).numpy()
    chosen = in_file_pixels(chosen, (height, width), size)
    colours = distinct(chosen["boxes"])
    for mask, colour in zip(masks_of(chosen, size) if "masks" in chosen else (), colours, strict=False):
        shown = canvas[:, : size[0], : size[1]]
        shown[:] = draw_segmentation_masks(shown, torch.from_numpy(mask), alpha=0.45, colors=colour)
    limit = torch.tensor([size[1] - 1, size[0] - 1]).repeat(2)
    canvas = draw_bounding_boxes(canvas, chosen["boxes"].clamp(min=0).minimum(limit), colors=colours, width=2)
    shares = [percent(float(score), 0) for score in chosen["scores"]]
    classes = [names[int(label)] for label in chosen["labels"]]
    captions = [
        (f"{name} {share}", name if len(names) > 1 else share.split()[0])
        for name, share in zip(classes, shares, strict=True)
    ]
    return _labelled(canvas.permute(1, 2, 0).numpy(), chosen["boxes"], captions, colours)


def distinct(boxes: Tensor) -> list[str]:
    """A colour for each of boxes (N, 4), another than those of the boxes it touches as long as there are so many."""
    grown = boxes + boxes.new_tensor([-2, -2, 2, 2])
    near = box_iou(grown, grown) > 0
    chosen: list[int] = []
    for number in range(len(boxes)):
        taken = [chosen[other] for other in range(number) if near[number, other]]
        start = number % len(COLOURS)  # so that colours are used alike where nothing touches
        order = [(start + step) % len(COLOURS) for step in range(len(COLOURS))]
        chosen.append(min(order, key=taken.count))
    return [COLOURS[colour] for colour in chosen]


def _labelled(
    image: np.ndarray, boxes: Tensor, captions: Sequence[tuple[str, str]], colours: Sequence[str]
) -> np.ndarray:
    """Captions at their boxes' upper edges, the surest first; below what they would cover whole.

    One that would cover another object takes its short form, the class, or where there is but one the score; and one
    that would cover another caption is left out.
    """
    picture = Image.fromarray(image)
    pen, font = ImageDraw.Draw(picture), ImageFont.truetype(str(_FONT), _LETTERS)
    placed: list[tuple[float, float, float, float]] = []
    corners = [tuple(box) for box in boxes.tolist()]
    for number, ((caption, short), colour) in enumerate(zip(captions, colours, strict=True)):
        others = corners[:number] + corners[number + 1 :]
        for text, avoided in ((caption, placed + others), (short, placed)):
            _, _, wide, high = pen.textbbox((0, 0), text, font=font)
            left, top, _, bottom = corners[number]
            x = max(0, min(left, picture.width - wide - 4))
            inside = top if bottom - top > 2 * high else bottom + 3
            y = max(0, min(top - high - 3 if top > high + 3 else inside, picture.height - high - 3))
            area = (x, y, x + wide + 3, y + high + 2)
            if not any(_meet(area, other) for other in avoided):
                pen.rectangle(area, fill=colour)
                pen.text((x + 2, y), text, fill="white" if colour in _DARK else "black", font=font)
                placed.append(area)
                break
    return np.asarray(picture)


def _meet(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def save_drawing(
    path: Path, images: Sequence[np.ndarray], found: Sequence[Detections], names: Sequence[str], least_score: float
) -> None:
    """One picture of several images side by side, as many in a row as make it about twice as wide as high."""
    drawn = [draw(image, some, names, least_score) for image, some in zip(images, found, strict=True)]
    if len(drawn) == 1:
        content = io.BytesIO()
        Image.fromarray(drawn[0]).save(content, "PNG")
        write_output(path, content.getvalue())
        return
    shape = min(max(float(np.median([len(picture) / picture.shape[1] for picture in drawn])), 0.4), 2.5)
    columns, rows = grid(len(drawn), shape)
    figure = new_figure(4.2 * columns, 4.2 * rows * shape)
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in cells:
        axes.set_axis_off()
    for axes, picture in zip(cells, drawn, strict=False):
        axes.imshow(picture)
    save_figure(figure, path)


def grid(count: int, shape: float) -> tuple[int, int]:
    """Columns and rows for pictures of `shape`, height by width: few places empty, and twice as wide as high.

    >>> grid(8, 1.0), grid(8, 0.75), grid(4, 0.4)
    ((4, 2), (4, 2), (2, 2))
    """
    every = [(columns, -(-count // columns)) for columns in range(1, count + 1)]
    return min(every, key=lambda at: abs(math.log(at[0] / at[1] / shape / 2)) + (at[0] * at[1] - count) / count)
