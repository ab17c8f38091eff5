"""Pictures of a trained network at work: what it takes held-out images for, and what it gathers from in them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from contagg.data.decode import UnreadableSampleError
from contagg.data.streams import ImageStream
from contagg.figures import GREY, VERMILION, bare, new_figure, percent, save_figure
from contagg.inspect.figures import affinity_figure
from contagg.inspect.gathering import gather
from contagg.inspect.view import CENTRE, look
from contagg.training.building import Preprocessing

LOOKED_AT = 512
"""Held-out images at most, evenly spread over the data set: the pictures then take seconds whatever its size."""
COLUMNS, ROWS = 8, 4
MOST_WRONG = COLUMNS
_AT_ONCE = 64
_GATHERING = 3


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A held-out image, the class it is, the class it was taken for, and that one's probability."""

    image: Image.Image
    label: int
    taken_for: int
    probability: float


@torch.inference_mode()
def answers(model: nn.Module, preprocessing: Preprocessing, images: Any, device: torch.device) -> list[Answer]:
    """What a model takes images for: up to LOOKED_AT of a data set of (PIL image, label), by number or a stream."""
    model, transform = model.to(device).eval(), preprocessing.evaluation()
    found = []
    samples = _readable(images)
    while chunk := list(islice(samples, _AT_ONCE)):
        batch = torch.stack([transform(image) for image, _ in chunk]).to(device)
        values, taken = model(batch).float().softmax(1).max(1)
        found += [
            Answer(image=image, label=label, taken_for=guess, probability=value)
            for (image, label), guess, value in zip(chunk, taken.tolist(), values.tolist(), strict=True)
        ]
    return found


def _readable(images: Any) -> Iterator[tuple[Image.Image, int]]:
    if isinstance(images, ImageStream):
        yield from islice(images, LOOKED_AT)
        return
    for index in np.unique(np.linspace(0, len(images) - 1, min(len(images), LOOKED_AT)).round().astype(int)):
        try:
            yield images[int(index)]
        except UnreadableSampleError:  # the evaluation has counted it and said its name
            continue


def draw_predictions(path: Path, found: Sequence[Answer], class_names: Sequence[str]) -> Path:
    """Draw held-out images with the classes they are taken for, the mistakes first and framed."""
    save_figure(predictions_figure(found, class_names), path)
    return path


def predictions_figure(found: Sequence[Answer], class_names: Sequence[str]) -> Figure:
    """Up to MOST_WRONG mistakes, the surest first, then right answers evenly spread over the data set."""
    wrong = sorted((one for one in found if one.label != one.taken_for), key=lambda one: -one.probability)
    right = [one for one in found if one.label == one.taken_for]
    shown = wrong[:MOST_WRONG]
    room = min(ROWS * COLUMNS - len(shown), len(right))
    shown += [right[index] for index in np.linspace(0, len(right) - 1, room).astype(int)]
    rows = -(-len(shown) // COLUMNS)
    title = f"{len(wrong)} of {len(found)} held-out images taken for another class"
    figure = new_figure(1.2 * COLUMNS, 1.5 * rows + 0.4, title + (" (framed)" if wrong else ""))
    for axes, one in zip(figure.subplots(rows, COLUMNS, squeeze=False).flat, shown, strict=False):
        _draw_answer(axes, one, class_names)
    for axes in figure.axes[len(shown) :]:
        axes.remove()
    return figure


def _draw_answer(axes: Axes, one: Answer, class_names: Sequence[str]) -> None:
    axes.imshow(np.asarray(one.image.convert("RGB")), interpolation="nearest")
    wrong = one.label != one.taken_for
    bare(axes, VERMILION if wrong else "#dddddd")
    text = f"{_short(class_names[one.taken_for])}  {percent(one.probability, 0)}"
    if wrong:
        for spine in axes.spines.values():
            spine.set_linewidth(3)
        axes.set_xlabel(f"is {_short(class_names[one.label])}", fontsize=8, color=GREY, labelpad=2)
    axes.set_title(text, fontsize=9, color=VERMILION if wrong else "black", pad=4)


def _short(name: str) -> str:
    return name if len(name) <= 12 else name[:11] + "…"


def draw_gathering(path: Path, model: nn.Module, preprocessing: Mapping[str, Any], found: Sequence[Answer]) -> Path:
    """Draw what the centre of a few images gathers from in the last layer that has an A, one row per image.

    Down a column the static part stays as it is while the dynamic one follows the image. Images are of different
    classes and taken for what they are, where there are such.

    Raises:
        UserError: the model has no layer with an A.
    """
    chosen = {one.label: one for one in reversed(found) if one.label == one.taken_for}
    examples = [chosen[label] for label in sorted(chosen)][:_GATHERING] or list(found[:_GATHERING])
    images = []
    for one in examples:
        view = look(model, one.image, preprocessing)
        images.append((view, gather(model, view, CENTRE)[-1:]))
    save_figure(affinity_figure(images), path)
    return path
