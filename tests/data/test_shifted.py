"""Moved and mirrored images: what moves, how far, and that it is always the same."""

import numpy as np

from contagg.data.named import shifted

SIDE, MOST = 21, 4


def dots(count: int) -> np.ndarray:
    images = np.zeros((count, SIDE, SIDE), np.uint8)
    images[:, 8, 7] = 255
    return images


def test_images_move_by_up_to_so_many_pixels_and_half_are_mirrored() -> None:
    where = np.argwhere(shifted(dots(500), MOST, 0))
    assert len(where) == 500  # no dot is lost
    rows, columns = where[:, 1] - 8, where[:, 2]
    assert set(rows) == set(range(-MOST, MOST + 1))
    assert columns.min() == 7 - MOST and columns.max() == SIDE - 1 - 7 + MOST
    assert 130 < np.sum(columns > 7 + MOST) < 200  # mirrored to 13 and moved by -1 or more: 6 of 9 of a half


def test_the_same_each_time_whatever_else_there_is_and_another_in_another_split() -> None:
    many, few = shifted(dots(50), MOST, 0), shifted(dots(20), MOST, 0)
    assert np.array_equal(many[:20], few)
    assert not np.array_equal(few, shifted(dots(20), MOST, 1))
    assert few.dtype == np.uint8


def test_what_leaves_the_image_is_lost_and_what_comes_in_is_black() -> None:
    moved = shifted(np.full((200, SIDE, SIDE), 7, np.uint8), MOST, 0)
    black = (moved == 0).sum(axis=(1, 2))
    assert black.min() == 0 and black.max() == SIDE**2 - (SIDE - MOST) ** 2
