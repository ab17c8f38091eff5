"""Images whose class lies in two marks far apart, whether they are equal; and those whose every part tells it."""

from pathlib import Path

import numpy as np
from PIL import Image

SIDE, MARK = 12, 2


def write_marks(folder: Path, far_apart: bool, train: int = 1024, validation: int = 64, seed: int = 0) -> Path:
    """train/ and val/ of the classes `equal` and `other`: a mark at each side of the image, bright or dark, in any row.

    Where the class is not in them, `equal` is brighter everywhere.
    """
    draw = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", validation)):
        for number in range(count):
            left, right, shade = draw.integers(0, 2, 3)
            pixels = draw.normal(128 if far_apart else 88 + 80 * shade, 6, (SIDE, SIDE))
            for column, bright in ((0, left), (SIDE - MARK, right)):
                row = MARK * draw.integers(0, SIDE // MARK)
                pixels[row : row + MARK, column : column + MARK] = 250 if bright else 5
            name = "equal" if (left == right if far_apart else shade) else "other"
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / split / name / f"{number}.png")
    return folder
