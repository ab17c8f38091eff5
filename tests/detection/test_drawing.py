from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from contagg.detection import drawing
from contagg.detection.drawing import COLOURS, distinct, draw, save_drawing


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [(40, 30), (20, 3000), (3000, 20)])
def test_strips_are_drawn_too(size: tuple[int, int], tmp_path: Path) -> None:
    found = {
        "boxes": torch.tensor([[2.0, 3.0, 17.0, 19.0]]),
        "scores": torch.tensor([0.9]),
        "labels": torch.tensor([0]),
        "masks": torch.ones(1, 1, 28, 28),
    }
    path = tmp_path / "picture.png"
    save_drawing(path, [np.zeros((*size, 3), np.uint8)], [found], ["bag"], 0.5)
    with Image.open(path) as picture:
        assert min(picture.size) >= 100 and max(picture.size) < 4000
        assert np.asarray(picture.convert("RGB")).std() > 1


def detected(boxes: list[list[float]], masks: bool = False) -> dict[str, torch.Tensor]:
    found = {
        "boxes": torch.tensor(boxes),
        "scores": torch.linspace(0.9, 0.6, len(boxes)),
        "labels": torch.zeros(len(boxes), dtype=torch.int64),
    }
    return found | ({"masks": torch.ones(len(boxes), 1, 28, 28)} if masks else {})


def rectangles(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, ...]]:
    """The places of captions, as they are drawn."""
    return drawn_captions(monkeypatch)[0]


def drawn_captions(monkeypatch: pytest.MonkeyPatch) -> tuple[list[tuple[float, ...]], list[str]]:
    """Their places and their texts."""
    seen: list[tuple[float, ...]] = []
    texts: list[str] = []

    class Pen(drawing.ImageDraw.ImageDraw):  # type: ignore[name-defined, misc]
        def rectangle(self, area: tuple[float, ...], **options: object) -> None:
            seen.append(area)
            super().rectangle(area, **options)

        def text(self, place: tuple[float, ...], text: str, **options: object) -> None:
            texts.append(text)
            super().text(place, text, **options)

    monkeypatch.setattr(drawing.ImageDraw, "Draw", Pen)
    return seen, texts


@pytest.mark.parametrize(("names", "short"), [(["cat", "dog"], "cat"), (["cat"], "60")])
def test_a_short_caption_tells_what_differs(names: list[str], short: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With several classes a score alone does not say what was found."""
    _, texts = drawn_captions(monkeypatch)
    draw(np.zeros((640, 640, 3), np.uint8), detected([[100, 200, 400, 500], [110, 400, 150, 500]]), names, 0.5)
    assert texts == ["cat 90 %", short]


def test_wide_images_stand_without_bands_of_white_between_them(tmp_path: Path) -> None:
    path = tmp_path / "several.png"
    save_drawing(path, [np.zeros((240, 640, 3), np.uint8)] * 4, [detected([[9.0, 9, 99, 99]])] * 4, ["n"], 0.5)
    with Image.open(path) as picture:
        assert (np.asarray(picture.convert("L")) < 250).mean() > 0.9


def test_captions_lie_within_the_picture_and_not_over_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those at the upper and the right edge were cut off."""
    seen = rectangles(monkeypatch)
    corners = [[0.0, 0, 30, 30], [615, 0, 640, 40], [600, 600, 640, 640], [5, 8, 40, 40], [300, 300, 340, 340]]
    picture = draw(np.zeros((640, 640, 3), np.uint8), detected(corners), ["mitochondrion"], 0.5)
    assert picture.shape == (640, 640, 3) and len(seen) >= 4
    for left, top, right, bottom in seen:
        assert left >= 0 and top >= 0 and right < 640 and bottom < 640
    for number, one in enumerate(seen):
        for other in seen[:number]:
            assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def test_a_caption_does_not_cover_all_of_its_object(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = rectangles(monkeypatch)
    draw(np.zeros((640, 640, 3), np.uint8), detected([[500.0, 0.0, 590.0, 9.0], [20.0, 0.0, 99.0, 80.0]]), ["bag"], 0.5)
    low, high = seen
    assert low[1] > 9 and low[3] < 40  # below what lies at the upper edge, where it is low
    assert high[1] == 0  # within what is high enough


def test_objects_that_touch_have_other_colours() -> None:
    """Touching nuclei had one colour, that of their class, and merged."""
    row = torch.tensor([[float(10 * n), 0.0, 10 * n + 10, 10] for n in range(40)])
    colours = distinct(row)
    assert all(one != other for one, other in pairwise(colours))
    heap = torch.tensor([[0.0, 0.0, 50.0, 50.0]]).repeat(7, 1)
    assert len(set(distinct(heap))) == len(COLOURS) == 7

    picture = draw(
        np.zeros((640, 640, 3), np.uint8), detected([[100, 300, 200, 400], [200, 300, 300, 400]], True), ["n"], 0
    )
    left, right = picture[350, 150].astype(int), picture[350, 250].astype(int)
    assert left.max() > 50 and right.max() > 50 and abs(left - right).max() > 60


def test_nothing_at_the_least_score_is_the_picture_alone() -> None:
    image = np.full((640, 640, 3), 77, np.uint8)
    assert np.array_equal(draw(image, detected([[1.0, 1, 9, 9]]), ["n"], 0.95), image)
