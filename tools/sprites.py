"""Small real pictures to compose scenes of: garments (Fashion-MNIST) and handwritten digits, each with its outline.

Needs no torch. What trains and what validates comes from different pictures.
"""

import gzip
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from scipy import ndimage

from contagg.errors import UserError

Split = Literal["train", "val"]
SourceName = Literal["garments", "digits"]

GARMENTS = "/usr/share/datasets/fashion-mnist"
"""Where Debian's package dataset-fashion-mnist puts its files."""

# By label, and in the order in which they are taken where fewer are asked for: the first differ most.
_GARMENT_NAMES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
_GARMENT_ORDER = (1, 8, 9, 0, 3, 5, 2, 7, 4, 6)


@dataclass(frozen=True)
class Sprite:
    """A picture (H, W), 0 to 255, and how opaque it is there, 0 to 255; half and more is inside."""

    grey: np.ndarray
    opacity: np.ndarray


@dataclass(frozen=True)
class Sprites:
    """The pictures of a split.

    Attributes:
        names: Of the classes.
        by_class: Pictures (N, H, W) of each class, grey on black.
        mirrored: Whether a mirrored picture is of the same class.
    """

    names: tuple[str, ...]
    by_class: tuple[np.ndarray, ...]
    mirrored: bool

    def draw(self, label: int, random: np.random.Generator) -> Sprite:
        """One of a class at random."""
        while True:
            grey = self.by_class[label][random.integers(len(self.by_class[label]))]
            inside = outline(grey)
            # A picture that is nearly empty, or whose threshold left a crumb, has no shape to learn.
            if inside.mean() >= 0.08:
                return Sprite(grey, (inside * 255).astype(np.uint8))


def outline(grey: np.ndarray) -> np.ndarray:
    """Where the largest shape on black is, without holes: bool (H, W)."""
    labels, count = ndimage.label(ndimage.binary_fill_holes(grey > 40))
    if count > 1:
        largest = np.bincount(labels.ravel())[1:].argmax() + 1
        return ndimage.binary_fill_holes(labels == largest)
    return labels > 0


@cache
def load_sprites(source: SourceName, split: Split, classes: int, root: str = GARMENTS) -> Sprites:
    """The pictures of `classes` classes. UserError where there are not so many, or where the files are missing."""
    if not 1 <= classes <= 10:
        raise UserError(f"--classes must lie between 1 and 10, not {classes}")
    grey, labels = _digits(split) if source == "digits" else _garments(split, Path(root))
    order = tuple(range(10)) if source == "digits" else _GARMENT_ORDER
    names = tuple(map(str, range(10))) if source == "digits" else _GARMENT_NAMES
    taken = order[:classes]
    return Sprites(
        names=tuple(names[label] for label in taken),
        by_class=tuple(grey[labels == label] for label in taken),
        mirrored=source == "garments",
    )


def _garments(split: Split, root: Path) -> tuple[np.ndarray, np.ndarray]:
    prefix = "train" if split == "train" else "t10k"
    arrays = []
    for name, header, shape in (("images-idx3", 16, (-1, 28, 28)), ("labels-idx1", 8, (-1,))):
        path = root / f"{prefix}-{name}-ubyte.gz"
        if not path.is_file():
            raise UserError(
                f"no garments at {path}: install Debian's package dataset-fashion-mnist, or use --source digits"
            )
        try:
            arrays.append(np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header).reshape(shape))
        except (OSError, EOFError, ValueError) as error:
            raise UserError(f"{path} is no whole idx file: {error}") from error
    return arrays[0], arrays[1]


def _digits(split: Split) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    held_out = np.arange(len(digits.target)) % 5 == 0
    chosen = held_out if split == "val" else ~held_out
    small = np.pad(digits.images[chosen], ((0, 0), (1, 1), (1, 1))) * (255 / 16)
    large = [Image.fromarray(image.astype(np.uint8)).resize((40, 40), Image.Resampling.BICUBIC) for image in small]
    # Strokes are pale at their edges: lift them, so that the outline is the stroke's.
    return np.stack([np.clip(1.6 * np.asarray(image, float), 0, 255).astype(np.uint8) for image in large]), (
        digits.target[chosen]
    )
