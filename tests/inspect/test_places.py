"""Which place of a map a token is made of, through whatever a model does to lay its tokens out."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contagg.inspect.places import Map, place, raster, sources, targets

GRID = (6, 10)


@pytest.fixture
def image() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(1, 5, *GRID).requires_grad_()


def windows(tokens: Tensor, size: int) -> Tensor:
    """(1, H, W, C) -> (G, size * size, C)."""
    return tokens.unfold(1, size, size).unfold(2, size, size).permute(0, 1, 2, 4, 5, 3).flatten(3, 4).flatten(0, 2)


def test_windows_shifted_and_filled_up(image: Tensor) -> None:
    """Numbers of places, laid out by the same steps, say where each token lies; what fills up is -1."""
    linear = nn.Linear(5, 12)
    numbers = torch.arange(60.0).view(1, *GRID, 1)

    def laid_out(tokens: Tensor, fill: float) -> Tensor:
        return windows(F.pad(tokens.roll((-1, -2), (1, 2)), (0, 0, 0, 2, 0, 2), value=fill), 4)

    expected = laid_out(numbers, -1.0)[..., 0].long()
    values = linear(laid_out(image.movedim(1, 3), 0.0)).unflatten(2, (3, 4)).transpose(1, 2)  # 3 heads
    found = place(values, [raster(image)])
    assert found is not None and found.token_of_slot is None and (found.grid, found.prefix) == (GRID, 0)
    for head in range(3):
        assert torch.equal(found.slots[:, head], expected)


def test_large_numbers_are_told_apart_in_single_precision() -> None:
    torch.manual_seed(1)
    wide = torch.randn(1, 5, 300, 301).requires_grad_()
    order = torch.randperm(300 * 301)
    tokens = F.layer_norm(wide.flatten(2).mT[:, order] @ torch.randn(5, 8), (8,))
    found = place(tokens, [raster(wide)])
    assert found is not None and torch.equal(found.slots[0], order)


def test_pooled_tokens_know_all_of_their_places(image: Tensor) -> None:
    pooled = nn.Conv2d(5, 8, 2, stride=2)(image).flatten(2).mT  # (1, 15, 8)
    found = place(pooled.unflatten(2, (2, 4)).transpose(1, 2), [raster(image)])
    assert found is not None and found.token_of_slot is not None
    expected = torch.arange(15).view(3, 5).repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(found.token_of_slot, expected.flatten())


def test_tokens_of_overlapping_places_are_not_placed(image: Tensor) -> None:
    overlapping = nn.Conv2d(5, 8, 3, padding=1)(image).flatten(2).mT
    assert place(overlapping, [raster(image)]) is None


def test_a_place_that_goes_into_many_tokens(image: Tensor) -> None:
    unfolded = F.unfold(image, 3, padding=1).unflatten(1, (5, 9)).permute(0, 3, 2, 1)  # (1, 60, 9, 5)
    found = sources(unfolded, raster(image))
    assert found is not None and targets(unfolded, torch.arange(9)[:, None], image, 1) is None
    row, column = (offset.flatten() for offset in torch.meshgrid(*[torch.arange(-1, 2)] * 2, indexing="ij"))
    at = torch.arange(60)[:, None]
    inside = ((at // 10 + row) % 7 < 6) & ((at // 10 + row) >= 0) & ((at % 10 + column) >= 0) & (at % 10 + column < 10)
    assert torch.equal(found[0], torch.where(inside, at + row * 10 + column, -1))


def test_heads_of_maps_of_their_own(image: Tensor) -> None:
    """Half of the heads are made of another map on the same grid."""
    other = torch.randn(1, 5, *GRID).requires_grad_()
    heads = torch.stack([image.flatten(2).mT, other.flatten(2).mT], 1)
    found = place(heads, [raster(image), raster(other)])
    assert found is not None and torch.equal(found.slots, torch.arange(60).expand(1, 2, 60))
    alone = place(heads, [raster(image)])
    assert alone is not None and (alone.slots[0, 1] == -1).all()


def test_slots_of_a_map_are_handed_on(image: Tensor) -> None:
    order = torch.randperm(60)
    permuted = Map(tensor=image, channel=1, slots=order, grid=GRID)
    found = place(image.flatten(2).mT * 3, [permuted])
    assert found is not None and torch.equal(found.slots[0], order)


def test_nothing_that_comes_from_elsewhere(image: Tensor) -> None:
    assert place(torch.randn(1, 60, 5), [raster(image)]) is None
    assert place(torch.randn(1, 60, 5).requires_grad_() * 2, [raster(image)]) is None


@pytest.mark.parametrize("slope", [1e8, 1e-8])
def test_a_token_of_another_slope_is_found_and_hides_no_other(slope: float) -> None:
    """As a class token that begins at zero has before a norm: its slope is a million times that of the others."""
    tensor = torch.randn(1, 13, 8, requires_grad=True)
    known = Map(tensor=tensor, channel=2, slots=torch.arange(13), grid=(3, 4), prefix=1)
    slopes = torch.ones(13, 1)
    slopes[0] = slope
    placed = place((tensor * slopes).flip(1), [known])
    assert placed is not None and placed.slots.tolist() == [list(range(12, -1, -1))]
