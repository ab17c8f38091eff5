"""What a detector's own layers find in the padding of a batch, by hand."""

import torch
from torch import nn

from contagg.detection.padding import NOTHING, PaddingMask, on_level, repeat_edges


def masked() -> PaddingMask:
    """Of two images, one that fills 64 x 96 pixels, one of 33 x 20."""
    mask = torch.ones(2, 64, 96, dtype=torch.bool)
    mask[1, 33:], mask[1, :, 20:] = False, False
    padding = PaddingMask()
    padding.mask = mask
    return padding


def test_a_level_holds_what_any_of_its_pixels_holds() -> None:
    on = on_level(masked().mask, torch.zeros(2, 5, 8, 12))
    assert on.shape == (2, 8, 12) and on[0].all()
    assert on[1].sum() == 5 * 3 and on[1, :5, :3].all()


def test_scores_in_the_padding_are_nothing_but_in_training() -> None:
    padding, logits = masked(), nn.Conv2d(5, 7, 3, padding=1)
    padding.mask_logits(logits)
    level = torch.randn(2, 5, 8, 12)
    plain = logits.train()(level)
    answered = logits.eval()(level)
    assert (answered[1, :, 5:] == NOTHING).all() and (answered[1, :, :, 3:] == NOTHING).all()
    assert torch.equal(answered[0], plain[0]) and torch.equal(answered[1, :, :5, :3], plain[1, :, :5, :3])
    assert (plain > NOTHING).all()
    padding.mask = None
    assert torch.equal(logits(level), plain)


def test_convolutions_that_look_at_neighbours_find_zeros_in_the_padding() -> None:
    padding, layers = masked(), nn.Sequential(nn.Conv2d(5, 5, 3, padding=1), nn.Conv2d(5, 5, 1))
    level = torch.randn(2, 5, 8, 12)
    alone = layers(level[1:, :, :5, :3])
    padding.zero_padding(layers)
    torch.testing.assert_close(layers(level)[1:, :, :5, :3], alone)


def test_last_rows_and_columns_come_twice_more() -> None:
    level = torch.arange(2 * 8 * 12.0).view(2, 1, 8, 12)
    edged = repeat_edges(level, [(64, 96), (33, 20)], 8)
    assert edged.shape == (2, 1, 10, 14)
    for number, (height, width) in enumerate([(8, 12), (5, 3)]):
        place = edged[number, 0]
        assert torch.equal(place[:height, :width], level[number, 0, :height, :width])
        for more in (0, 1):
            assert torch.equal(place[height + more, :width], level[number, 0, height - 1, :width])
            assert torch.equal(place[:height, width + more], level[number, 0, :height, width - 1])
