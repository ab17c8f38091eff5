"""Real photographs, which scikit-learn ships, cut into small pieces."""

from functools import cache

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image


@cache
def photo(name: str) -> np.ndarray:
    return load_sample_image(name)  # (427, 640, 3)


def piece(number: int, size: tuple[int, int] = (53, 41), name: str = "flower.jpg") -> Image.Image:
    """A piece of a photograph, (width, height), another for every number."""
    width, height = size
    top, left = (number * 37) % (427 - height), (number * 89) % (640 - width)
    return Image.fromarray(photo(name)[top : top + height, left : left + width])
