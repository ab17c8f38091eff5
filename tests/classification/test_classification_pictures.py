"""Pictures of a trained network at work: mistakes first, what it says true, and none of what cannot be read."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import same_color
from PIL import Image
from torch import nn

import contagg
from contagg.classification.pictures import (
    LOOKED_AT,
    Answer,
    answers,
    draw_gathering,
    draw_predictions,
    predictions_figure,
)
from contagg.data.datasets import MemoryImages
from contagg.data.decode import UnreadableSampleError, read_image
from contagg.data.streams import ImageStream
from contagg.errors import UserError
from contagg.figures import VERMILION
from contagg.inspect.stages import stage_and_block
from contagg.training.building import Preprocessing

PLAIN = Preprocessing(
    input_size=(1, 4, 6), mean=(0.0,), std=(1.0,), crop="padded", crop_fraction=1.0, interpolation="nearest"
)
NAMES = ("dark", "bright", "of a very long name")
SIZES = {"embed_dims": (32, 64, 96, 128), "depths": (1, 1, 1, 1), "num_classes": 3, "in_chans": 1, "img_size": 32}


class Brightness(nn.Module):
    """Takes an image for `bright` by three to one where its mean is above one half, else for `dark`."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        bright = (images.mean((1, 2, 3)) > 0.5).float()
        return torch.stack([1 - bright, bright, torch.full_like(bright, -torch.inf)], 1) * np.log(3)


def images(count: int) -> MemoryImages:
    """Dark ones, labelled so, then bright ones, also labelled dark."""
    pixels = np.where(np.arange(count)[:, None, None] < count // 2, 10, 250) * np.ones((1, 4, 6))
    return MemoryImages(pixels.astype(np.uint8), np.zeros(count, int))


def an_answer(label: int, taken_for: int, probability: float, shade: int = 0) -> Answer:
    image = Image.new("L", (6, 4), shade)
    return Answer(image=image, label=label, taken_for=taken_for, probability=probability)


def test_answers_are_the_network_s() -> None:
    found = answers(Brightness(), PLAIN, images(7), torch.device("cpu"))
    assert [(one.label, one.taken_for) for one in found] == [(0, 0)] * 3 + [(0, 1)] * 4
    assert all(one.probability == pytest.approx(0.75) for one in found)


def test_a_large_data_set_is_looked_at_from_end_to_end() -> None:
    found = answers(Brightness(), PLAIN, images(3 * LOOKED_AT), torch.device("cpu"))
    assert len(found) == LOOKED_AT and sum(one.taken_for for one in found) == LOOKED_AT // 2


def test_unreadable_images_are_passed_over_and_streams_are_read() -> None:
    class Broken(MemoryImages):
        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            if index == 1:
                raise UnreadableSampleError("image 1", "cut off")
            return super().__getitem__(index)

    whole = images(5)
    broken = Broken(whole.gather(np.arange(5)).numpy(), whole.labels)
    assert [one.taken_for for one in answers(Brightness(), PLAIN, broken, torch.device("cpu"))] == [0, 1, 1, 1]
    samples = [(*whole[index], f"image {index}") for index in range(5)]
    stream = ImageStream(lambda reading, counts: iter(samples), 5, 3, read_image, whole.listing())
    assert [one.taken_for for one in answers(Brightness(), PLAIN, stream, torch.device("cpu"))] == [0, 0, 1, 1, 1]


def test_mistakes_come_first_the_surest_before_and_are_framed() -> None:
    found = [an_answer(0, 0, 0.9)] * 50 + [an_answer(1, 2, 0.3), an_answer(0, 1, 0.625)]
    figure = predictions_figure(found, NAMES)
    assert figure.get_suptitle() == "2 of 52 held-out images taken for another class (framed)"
    assert [axes.get_title() for axes in figure.axes[:3]] == ["bright  63 %", "of a very l…  30 %", "dark  90 %"]
    assert [axes.get_xlabel() for axes in figure.axes[:3]] == ["is dark", "is bright", ""]
    framed = [same_color(axes.spines["left"].get_edgecolor(), VERMILION) for axes in figure.axes]
    assert framed == [True, True] + [False] * 30 and all(axes.images for axes in figure.axes)


@pytest.mark.parametrize("count", [1, 5, 8, 9])
def test_few_images_leave_no_empty_frames(count: int, tmp_path: Path) -> None:
    path = draw_predictions(tmp_path / "p.png", [an_answer(0, 0, 0.5)] * count, NAMES)
    assert len(predictions_figure([an_answer(0, 0, 0.5)] * count, NAMES).axes) == count
    with Image.open(path) as written:
        assert written.size[0] > 1000


def test_gathering_is_of_the_last_layer_and_of_different_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr("contagg.classification.pictures.affinity_figure", lambda images: drawn.extend(images))
    monkeypatch.setattr("contagg.classification.pictures.save_figure", lambda figure, path: None)
    model = contagg.create("container_light_tiny", **SIZES).eval()
    found = [an_answer(0, 1, 0.9, 1), an_answer(2, 2, 0.9, 2), an_answer(2, 2, 0.9, 3), an_answer(1, 1, 0.9, 4)]
    draw_gathering(tmp_path / "a.png", model, {"input_size": [1, 32, 32], "mean": [0.5], "std": [0.5]}, found)
    assert [view.image.getpixel((0, 0)) for view, _ in drawn] == [4, 2]  # not the mistake, and one a class
    assert {stage_and_block(one.layer.name) for _, gatherings in drawn for one in gatherings} == {(4, 1)}


def test_a_network_without_an_affinity_has_no_such_picture(tmp_path: Path) -> None:
    model = contagg.create("container_light_tiny", affinity="full-conv3", **SIZES).eval()
    with pytest.raises(UserError, match="no affinity"):
        draw_gathering(tmp_path / "a.png", model, {"input_size": [1, 32, 32]}, [an_answer(0, 0, 0.9)])
