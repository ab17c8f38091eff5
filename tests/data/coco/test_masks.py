import numpy as np
import pytest
from pycocotools import mask as oracle

from contagg.data.coco.masks import to_mask, to_rle
from contagg.errors import UserError
from tools.compose_coco import to_plain_rle, to_polygons


def blob(seed: int, shape: tuple[int, int] = (23, 37)) -> np.ndarray:
    random = np.random.default_rng(seed)
    rows, columns = np.indices(shape)
    centre, size = random.uniform(0, shape), random.uniform(3, 12, 2)
    return (((rows - centre[0]) / size[0]) ** 2 + ((columns - centre[1]) / size[1]) ** 2 < 1).astype(np.uint8)


@pytest.mark.parametrize("seed", range(12))
def test_masks_come_back_exactly_and_as_pycocotools_reads_them(seed: int) -> None:
    mask = blob(seed) | blob(seed + 100)
    for segmentation in (to_rle(mask), to_plain_rle(mask), to_polygons(mask)):
        if segmentation is None:
            continue
        assert np.array_equal(to_mask(segmentation, mask.shape), mask)
        if isinstance(segmentation, list):
            encoded = oracle.merge(oracle.frPyObjects(segmentation, *mask.shape))
        elif isinstance(segmentation["counts"], list):
            encoded = oracle.frPyObjects(segmentation, *mask.shape)
        else:
            encoded = segmentation
        assert np.array_equal(oracle.decode(encoded), mask)
    assert to_polygons(mask) is not None


def test_a_ring_is_no_polygon() -> None:
    ring = np.zeros((20, 20), np.uint8)
    ring[3:17, 3:17] = 1
    ring[8:12, 8:12] = 0
    assert to_polygons(ring) is None


def test_noise_survives_compression() -> None:
    mask = (np.random.default_rng(0).random((61, 47)) < 0.3).astype(np.uint8)
    mask[0, 0] = 1
    for segmentation in (to_rle(mask), to_plain_rle(mask)):
        assert np.array_equal(to_mask(segmentation, mask.shape), mask)


GOOD = to_rle(blob(1))


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [23, 37], "counts": [3, 4]}, "counts add up to 7, the image has 851"),
        ({"size": [37, 23], "counts": [851]}, r"the mask is \[37, 23\] high and wide, its image \[23, 37\]"),
        ({"size": [23, 37], "counts": [-1, 852]}, "broken"),
        ({"size": [23, 37], "counts": [9 * 10**4298] * 30}, "a count is none from 0 to 851, the image's pixels"),
        ({"size": [23, 37], "counts": "o" * 1_000_000}, "its text has a number longer than any image's"),
        ({"size": [23, 37], "counts": ("o" * 11 + "O") * 2000}, "broken"),
        ({"size": [23, 37], "counts": [1.5, 2]}, "whole numbers"),
        ({"size": [23, 37], "counts": GOOD["counts"][:-3]}, "broken"),
        ({"size": [23, 37], "counts": "zz\x7f"}, "broken"),
        ({"counts": [851]}, "neither a list of polygons nor an RLE"),
        ("text", "neither a list of polygons nor an RLE"),
        ([], "no polygon"),
        ([[1, 2, 3, 4]], "three points or more, not 4 values"),
        ([[1, 2, 3, 4, 5, 6, 7]], "not 7 values"),
        ([[1, 2, 3, 4, 5, float("nan")]], "finite"),
        ([["a"] * 6], "finite numbers"),
        ([7], "not 7"),
        ([[10**400] * 6], "finite numbers"),
        ([[40, 1, 50, 1, 50, 9]], "a polygon's x from 40 to 50 does not fit the image's 0 to 37 pixels"),
        ([[1, 1, 5, 1, 9, 1e9]], "a polygon's y from 1 to 1000000000.0 does not fit the image's 0 to 23 pixels"),
        ({"size": [23, 37], "counts": [851]}, "the RLE has no pixel of the object"),
        ([[0, 0, 37, 23, 0, 1, 37, 22] * 150], "the polygons are 35,400 pixels long, no object's outline in 37 x 23"),
        ({"size": 851, "counts": [851]}, r"the mask is 851 high and wide, its image \[23, 37\]"),
    ],
)
def test_broken_segmentations_are_named(segmentation: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        to_mask(segmentation, (23, 37))
