"""Images that do not stand in the middle: each moved and perhaps mirrored, once and for all.

On centred Fashion-MNIST the nearest neighbours of raw pixels are hard to beat, as every garment fills the same place.
"""

import numpy as np

from contagg.data.sampling import hashed, uniform


def shifted(images: np.ndarray, most: int, split: int) -> np.ndarray:
    """Each image (N, H, W) moved by up to `most` pixels each way, filled with 0, and half of them mirrored.

    A function of an image's number and the number of its split alone, so that every run and machine has the same.
    """
    height, width = images.shape[1:]
    keys = hashed(split, np.arange(len(images)))
    images = np.where(uniform(keys, 0)[:, None, None] < 0.5, images[:, :, ::-1], images)
    padded = np.pad(images, ((0, 0), (most, most), (most, most)))
    top, left = ((uniform(keys, draw) * (2 * most + 1)).astype(int) for draw in (1, 2))
    rows, columns = top[:, None] + np.arange(height), left[:, None] + np.arange(width)
    return padded[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]]
