"""Colours and marks mean what the figure says."""

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from PIL import Image

from contagg.inspect.overlay import colour_bar, colours, draw_overlay, mark, times_uniform, zoom


def test_times_uniform_is_n_times_the_share() -> None:
    attention = torch.rand(3, 5).flatten().softmax(0).view(3, 5)
    torch.testing.assert_close(times_uniform(attention), 15 * attention)
    torch.testing.assert_close(times_uniform(torch.full((2, 3), 0.7)), torch.ones(2, 3))
    signed = torch.tensor([[1.0, -2.0], [0.0, 1.0]])
    torch.testing.assert_close(times_uniform(signed), signed)
    prefix = torch.tensor([4.0])  # a class token takes half, and is one of the tokens
    torch.testing.assert_close(times_uniform(signed, prefix), signed * 5 / 8)
    assert times_uniform(torch.zeros(2, 2)).tolist() == [[0, 0], [0, 0]]


def test_signed_weights_are_white_at_zero_and_symmetric() -> None:
    mappable = colours(torch.tensor([[-20.0, 10.0]]))
    assert mappable.get_clim() == (-20, 20)
    blue, white, orange = mappable.to_rgba([-20, 0, 20])
    assert blue[2] > blue[0] and orange[0] > orange[2] and min(white[:3]) > 0.95
    assert white[3] < 0.01 and blue[3] == orange[3] > 0.7


def test_weights_without_signs_have_a_scale_without_signs() -> None:
    for weights, peak in ((torch.tensor([[0.5, 1.5]]), 9), (torch.tensor([[0.0, 30.0]]), 30), (torch.zeros(2, 2), 9)):
        assert colours(weights).get_clim() == pytest.approx((0, peak))


def test_an_even_affinity_leaves_the_photograph_to_be_seen() -> None:
    """All tokens alike: a faint wash, of which every pixel of the image keeps two thirds."""
    axes = Figure().subplots()
    draw_overlay(axes, torch.ones(4, 4), 8, Image.effect_noise((32, 32), 90), (32, 32))
    assert 0 < axes.images[1].get_array()[..., 3].max() < 1 / 3


def test_the_stronger_the_more_it_covers_and_nothing_leaves_the_image_free() -> None:
    axes = Figure().subplots()
    weights = torch.tensor([[-1.0, 0.0], [0.25, 1.0]])
    draw_overlay(axes, weights, 8, Image.new("RGB", (13, 11)), (13, 11))
    picture, overlay = axes.images
    assert picture.get_extent() == [0, 11, 13, 0] and overlay.get_extent() == [0, 16, 16, 0]
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 11), (13, 0))
    opacity = overlay.get_array()[..., 3]
    assert opacity[0, 1] < 0.01 < opacity[1, 0] < opacity[0, 0]
    assert opacity[0, 0] == pytest.approx(opacity[1, 1], abs=0.01) and opacity.max() < 0.9


@pytest.mark.parametrize(
    ("weights", "labels"),
    [
        ([[0.0, 2.0]], ["0", "1", "9"]),
        ([[0.0, 200.0]], ["1", "200"]),  # 0 would be written over 1
        ([[-4.0, 25.0]], ["-25", "-1", "1", "25"]),
    ],
)
def test_the_bar_has_a_tick_at_one(weights: list[list[float]], labels: list[str]) -> None:
    axes = Figure().subplots()
    colour_bar(axes, colours(torch.tensor(weights)))
    assert [label.get_text() for label in axes.child_axes[0].get_yticklabels()] == labels


def test_a_token_is_framed_and_a_tiny_one_ringed() -> None:
    axes = Figure().subplots()
    axes.set_xlim(0, 100)
    mark(axes, 2, 3, 10)
    assert [type(patch) for patch in axes.patches] == [Rectangle] * 2 and axes.patches[1].get_xy() == (30, 20)
    mark(axes, 2, 3, 2)
    assert [type(patch) for patch in axes.patches[2:]] == [Circle] * 2 and axes.patches[3].center == (7, 5)


def test_only_a_small_window_is_shown_large() -> None:
    kernel = torch.zeros(20, 30)
    kernel[3:6, 7:10] = torch.arange(1.0, 10).view(3, 3)
    axes = Figure().subplots()
    zoom(axes, kernel, 4, 8)
    [inset] = axes.child_axes
    torch.testing.assert_close(
        torch.tensor(inset.images[0].get_array()), torch.tensor(colours(kernel).to_rgba(kernel[3:6, 7:10].numpy()))
    )
    assert not inset.texts
    zoom(axes, -kernel, 4, 8)
    assert len(axes.child_axes[1].texts) == 9  # a minus on each
    for spread in (torch.ones(20, 30), torch.zeros(20, 30)):
        axes = Figure().subplots()
        zoom(axes, spread, 4, 8)
        assert not axes.child_axes


def test_a_window_cut_by_the_border() -> None:
    corner = torch.zeros(20, 30)
    corner[0:2, 0:2] = 1
    axes = Figure().subplots()
    zoom(axes, corner, 0, 0)
    assert axes.child_axes[0].images[0].get_array().shape == (2, 2, 4)
