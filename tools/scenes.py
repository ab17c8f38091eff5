"""One composed image: sprites scaled, turned, tinted, one over another, on a part of a photograph. Needs no torch.

Every pixel's owner is known, so that masks, boxes and areas are true; what is hidden or cut off is not in them.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from tools.sprites import Split, Sprite, Sprites

EMPTY, CROWDED, GREY = 0.03, 0.05, 0.04
"""Shares of images without objects, with a crowd, and without colour."""

LARGEST = 0.65
"""Of an object's longer side by the image's shorter one."""

_LEAST_PIXELS = 24
_LEAST_VISIBLE = 0.3  # of an object: less could not be told
_TRIES = 12


@dataclass
class Instance:
    """An object, or a crowd of one class, and where it is visible: bool (H, W)."""

    label: int
    visible: np.ndarray
    is_crowd: bool
    whole: int  # its pixels where nothing hides it


@dataclass(frozen=True)
class Scene:
    """An image, uint8 (H, W, 3) or (H, W), and what is on it."""

    image: np.ndarray
    instances: list[Instance]


def compose(
    sprites: Sprites, split: Split, size: int, objects: int, smallest: float, random: np.random.Generator
) -> Scene:
    """A scene of `size` pixels at its longer side, square or 4 to 3 either way.

    Args:
        objects: As many at most; a crowd is one.
        smallest: Of an object's longer side by the scene's shorter one.
    """
    short = round(size * 3 / 4)
    height, width = [(size, size), (size, short), (short, size)][random.integers(3)]
    canvas = _background(split, (height, width), random)
    instances: list[Instance] = []
    if random.random() >= EMPTY:
        crowd = random.random() < CROWDED
        for place in range(int(random.integers(1, objects + 1))):
            label = int(random.integers(len(sprites.names)))
            if crowd and place == 0:
                _add_crowd(canvas, instances, sprites, label, random)
            else:
                _add(
                    canvas,
                    instances,
                    _posed(sprites, label, _scale(smallest, random) * min(height, width), random),
                    label,
                    random,
                )
    image = np.clip(canvas, 0, 255).astype(np.uint8)
    return Scene(image.mean(2).astype(np.uint8) if random.random() < GREY else image, instances)


def _scale(smallest: float, random: np.random.Generator) -> float:
    """An object's longer side by the image's shorter one: small ones are as frequent as large ones."""
    return float(np.exp(random.uniform(np.log(smallest), np.log(LARGEST))))


def _add(
    canvas: np.ndarray,
    instances: list[Instance],
    posed: Sprite,
    label: int,
    random: np.random.Generator,
    crowd: bool = False,
) -> Instance | None:
    """Paint an object where it leaves enough of itself and of the others to be seen; None where there is no place."""
    for _ in range(_TRIES):
        centre = random.uniform(0, 1, 2) * canvas.shape[:2]
        opacity, grey = _placed(posed, canvas.shape[:2], (centre - np.array(posed.grey.shape) / 2).astype(int))
        inside, whole = opacity >= 0.5, int((posed.opacity >= 128).sum())
        remaining = [instance.visible & ~inside for instance in instances]
        enough = inside.sum() >= max(_LEAST_PIXELS, _LEAST_VISIBLE * whole)
        if enough and all(
            left.sum() >= max(_LEAST_PIXELS, _LEAST_VISIBLE * instance.whole)
            for left, instance in zip(remaining, instances, strict=True)
        ):
            _paint(canvas, opacity, grey, _tint(random))
            for instance, left in zip(instances, remaining, strict=True):
                instance.visible = left
            instances.append(Instance(label, inside, crowd, whole))
            return instances[-1]
    return None


def _add_crowd(
    canvas: np.ndarray, instances: list[Instance], sprites: Sprites, label: int, random: np.random.Generator
) -> None:
    """A heap of one class, as one instance that stands first."""
    shape = canvas.shape[:2]
    union = np.zeros(shape, bool)
    centre = random.uniform(0.25, 0.75, 2) * shape
    tint = _tint(random)
    for _ in range(int(random.integers(8, 15))):
        posed = _posed(sprites, label, 0.2 * min(shape), random)
        corner = centre + random.normal(0, 0.1, 2) * min(shape) - np.array(posed.grey.shape) / 2
        opacity, grey = _placed(posed, shape, corner.astype(int))
        _paint(canvas, opacity, grey, tint * random.uniform(0.7, 1))
        union |= opacity >= 0.5
    if union.sum() >= _LEAST_PIXELS:
        instances.append(Instance(label, union, is_crowd=True, whole=int(union.sum())))


def _posed(sprites: Sprites, label: int, longer_side: float, random: np.random.Generator) -> Sprite:
    """A sprite scaled so that it is `longer_side` pixels, stretched, turned up to 30 degrees, maybe mirrored."""
    sprite = sprites.draw(label, random)
    rows, columns = (np.flatnonzero(sprite.opacity.any(axis)) for axis in (1, 0))
    part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    stretch = np.sqrt(random.uniform(0.8, 1.25))
    scale = longer_side / max(len(range(*part[0].indices(1000))), len(range(*part[1].indices(1000))))
    height, width = ((s.stop - s.start) * scale for s in part)
    size = max(3, round(width * stretch)), max(3, round(height / stretch))
    angle, mirror = random.uniform(-30, 30), sprites.mirrored and random.random() < 0.5
    layers = []
    for layer in (sprite.grey, sprite.opacity):
        image = Image.fromarray(np.ascontiguousarray(layer[part][:, ::-1] if mirror else layer[part]))
        image = image.resize(size, Image.Resampling.BICUBIC)
        layers.append(np.asarray(image.rotate(angle, Image.Resampling.BICUBIC, expand=True)))
    return Sprite(*layers)


def _placed(posed: Sprite, shape: tuple[int, int], corner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Opacity and grey, 0 to 1, (H, W) of the whole image, with the sprite's corner at (row, column)."""
    layers = np.zeros((2, *shape), np.float32)
    begin, end = np.maximum(corner, 0), np.minimum(corner + posed.grey.shape, shape)
    if (begin < end).all():
        target = slice(begin[0], end[0]), slice(begin[1], end[1])
        source = tuple(slice(b - c, e - c) for b, e, c in zip(begin, end, corner, strict=True))
        layers[0][target], layers[1][target] = posed.opacity[source] / 255, posed.grey[source] / 255
    return layers[0], layers[1]


def _paint(canvas: np.ndarray, opacity: np.ndarray, grey: np.ndarray, tint: np.ndarray) -> None:
    colour = (0.25 + 0.75 * grey[:, :, None]) * tint
    canvas += opacity[:, :, None] * (colour - canvas)


def _tint(random: np.random.Generator) -> np.ndarray:
    return random.uniform(60, 255, 3).astype(np.float32)


def _background(split: Split, shape: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """A part of a photograph, mirrored and recoloured: float32 (H, W, 3). The splits share no pixel."""
    photographs = _photographs()
    photograph = photographs[random.integers(len(photographs))]
    middle = round(0.65 * photograph.shape[1])
    area = photograph[:, : middle - 8] if split == "train" else photograph[:, middle + 8 :]
    limit = min(area.shape[0] / shape[0], area.shape[1] / shape[1])
    height, width = (max(8, int(length * limit * random.uniform(0.4, 1))) for length in shape)
    top, left = random.integers(area.shape[0] - height + 1), random.integers(area.shape[1] - width + 1)
    part = area[top : top + height, left : left + width]
    part = part[:, ::-1] if random.random() < 0.5 else part
    image = Image.fromarray(np.ascontiguousarray(part)).resize(shape[::-1], Image.Resampling.BILINEAR)
    return np.asarray(image, np.float32) * random.uniform(0.5, 1.1, 3).astype(np.float32)


@cache
def _photographs() -> list[np.ndarray]:
    """The two photographs that scikit-learn ships."""
    from sklearn.datasets import load_sample_images

    return list(load_sample_images().images)
