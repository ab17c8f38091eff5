"""Colours and marks mean what the figure says."""

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from PIL import Image

from contagg.inspect.overlay import POSITIVE, SIGNED, colours, draw_overlay, mark, zoom


def test_signed_weights_are_white_at_zero_and_symmetric() -> None:
    mappable = colours(torch.tensor([[-1.0, 0.5]]))
    assert mappable.get_clim() == (-1, 1) and mappable.get_cmap() is SIGNED
    blue, white, red = mappable.to_rgba([-1, 0, 1])[:, :3]
    assert blue[2] > blue[0] and red[0] > red[2] and min(white) > 0.95


def test_positive_weights_start_at_zero_so_that_even_ones_look_even() -> None:
    for weights, peak in ((torch.tensor([[0.2, 0.3]]), 0.3), (torch.full((2, 2), 0.25), 0.25), (torch.zeros(2, 2), 1)):
        mappable = colours(weights)
        assert mappable.get_cmap() is POSITIVE
        assert mappable.get_clim() == pytest.approx((0, peak))


def test_the_stronger_the_more_it_covers_and_nothing_leaves_the_image_free() -> None:
    axes = Figure().subplots()
    weights = torch.tensor([[-1.0, 0.0], [0.25, 1.0]])
    draw_overlay(axes, weights, 8, Image.new("RGB", (13, 11)), (13, 11))
    picture, overlay = axes.images
    assert picture.get_extent() == [0, 11, 13, 0] and overlay.get_extent() == [0, 16, 16, 0]
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 11), (13, 0))
    opacity = overlay.get_array()[..., 3]
    assert opacity[0, 1] == 0 and 0 < opacity[1, 0] < opacity[0, 0] == opacity[1, 1]


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
