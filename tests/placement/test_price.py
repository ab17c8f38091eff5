"""Prices: that their sum is the whole, at any size; budgets in and out of their range; what cannot be placed."""

import pytest
import torch

import contagg
from contagg.benchmark.cost import multiply_adds
from contagg.detection.backbone import Features
from contagg.errors import UserError
from contagg.placement.config import Budget, PlacementConfig
from contagg.placement.places import affinity_option, find_places
from contagg.placement.price import Prices, at_size, grids, price, shown

SMALL = {"embed_dims": (32, 32, 64, 64), "depths": (1, 2, 1, 1), "num_classes": 3}
CPU = torch.device("cpu")


def priced(network: torch.nn.Module, size: tuple[int, int], unit: str = "multiply-adds") -> Prices:
    return price(network, find_places(network), size, 3, unit, "fp32", CPU)


@pytest.mark.parametrize("size", [(64, 64), (97, 61)])
@pytest.mark.parametrize("affinity", ["attention + dwconv3", "dwconv3 + window2/8", "attention + token mlp/32"])
def test_the_sum_of_prices_is_what_every_choice_costs(affinity: str, size: tuple[int, int]) -> None:
    network = contagg.create("container_tiny", affinity=affinity, img_size=64, **SMALL)
    places, prices = find_places(network), priced(network, size)
    for opened in ((), (0, 1, 2, 3, 4), (1, 4)):
        chosen = contagg.create(
            "container_tiny", affinity=affinity_option(network, places, opened), img_size=size, **SMALL
        )
        assert prices.cost(opened) == multiply_adds(chosen, size)
    assert prices.cost(()) < prices.cost((1, 4)) < prices.opened


def test_a_choice_is_a_word_a_stage_or_a_word_a_block() -> None:
    network = contagg.create("container_light_tiny", affinity="attention + dwconv5", **SMALL)
    places = find_places(network)
    assert [place.label for place in places] == ["1.1", "2.1", "2.2", "3.1", "4.1"]
    both, static = "attention + dwconv5", "dwconv5"
    assert affinity_option(network, places, (0, 2, 4)) == [both, [static, both], static, both]
    light = contagg.create("container_light_tiny", **SMALL)
    assert [place.label for place in find_places(light)] == ["4.1"]


def test_a_backbone_within_a_detector_has_places_too() -> None:
    features = Features("container_tiny", (4, 8, 16, 32), frozen=False, embed_dims=(32, 32, 32, 32))
    places = find_places(features)
    assert len(places) == 5 and all(place.mixture(features) for place in places)
    prices = priced(features, (64, 96))
    assert prices.opened == multiply_adds(features, (64, 96))


def test_a_backbone_that_ends_early_has_places_up_to_there() -> None:
    """DETR at stride 8 takes two stages; the words of the others stay in its options."""
    features = Features("container_tiny", (8,), frozen=False, embed_dims=(32, 32, 32, 32))
    places = find_places(features)
    assert [place.label for place in places] == ["1.1", "2.1"]
    both = "attention + dwconv3"
    assert affinity_option(features, places, (1,)) == ["dwconv3", both, both, both]
    assert priced(features, (64, 96)).opened == multiply_adds(features, (64, 96))


def test_milliseconds_are_measured_where_it_runs() -> None:
    network = contagg.create("container_tiny", **SMALL)
    prices = priced(network, (96, 96), "ms")
    assert prices.closed > 0 and prices.added[0] > 0 and min(prices.added) >= 0 and "torch" in prices.device
    assert prices.added[1] == prices.added[2], "blocks that are alike cost the same"


def test_a_grid_is_that_of_the_size() -> None:
    network = contagg.create("container_tiny", **SMALL)
    found = grids(at_size(network, (40, 72)), find_places(network), (40, 72), 3)
    assert found == [(10, 18), (5, 9), (5, 9), (3, 5), (2, 3)]


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ("1k", "placement.budget 1 k multiply-adds: at 64 x 64"),
        ("99G", "99 G"),
        ("0.2", "budget 0.2 of all open"),
        ("1", "budget 1 of"),
    ],
)
def test_a_budget_out_of_range_is_told_the_range(budget: str, message: str) -> None:
    prices = priced(contagg.create("container_tiny", **SMALL), (64, 64))
    with pytest.raises(UserError, match=r"with every dynamic part closed and .* with all open") as raised:
        prices.room(Budget.read(budget))
    assert message in str(raised.value)


def test_a_budget_is_room_above_all_closed() -> None:
    prices = Prices(unit="multiply-adds", size=(8, 8), closed=6.0, added=(1.0, 3.0))
    assert prices.room(Budget.read("0.7")) == pytest.approx(1.0)
    assert prices.room(Budget(6.0, "multiply-adds")) == 0


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (("container_dw3", {}), "nothing can be closed in blocks of 'dwconv3'"),
        (("container_attention", {}), "nothing can be closed in blocks of 'attention'"),
        (("resnet18", {}), "ResNet is not made of words"),
    ],
)
def test_a_network_without_places(network: tuple[str, dict], message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_places(contagg.create(network[0], **network[1]))


def test_what_a_backbone_does_not_have_is_not_named_among_its_blocks() -> None:
    """CONTAINER-LIGHT's attention is in its last stage, which a detector with one map of stride 8 leaves out."""
    with pytest.raises(UserError, match=r"in blocks of 'dwconv5' \(it ends after stage 2 of 4\): give") as raised:
        find_places(Features("container_light_tiny", [8], frozen=False))
    assert "blocks of 'attention" not in str(raised.value)


@pytest.mark.parametrize("part", ["at_size", "_measured"])
def test_a_size_beyond_the_memory_is_one_line(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Learnt positions are made for it, and milliseconds measured with it, for real."""

    def no_room(*_: object) -> None:
        raise RuntimeError("can't allocate\nmemory")

    monkeypatch.setattr(f"contagg.placement.price.{part}", no_room)
    with pytest.raises(UserError, match=r"placement\.at 64x64 does not fit this network: can't allocate memory"):
        priced(contagg.create("container_tiny", img_size=64, **SMALL), (64, 64), "ms")


def test_a_size_that_does_not_fit() -> None:
    features = Features("container_tiny", (4, 8, 16, 32), frozen=False)
    with pytest.raises(UserError, match=r"placement\.at 50x70 does not fit this network"):
        priced(features, (50, 70))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"budget": "3.2X"}, "placement.budget must be multiply-adds such as 3.2G"),
        ({"budget": "1.5"}, "placement.budget must be"),
        ({"budget": "0ms"}, "placement.budget must be"),
        ({"at": "800"}, "placement.at must be height and width in pixels such as 800x1333, not '800'"),
        ({"warmup": 0.6}, r"placement.warmup \(0.6\) must be below placement.freeze \(0.6\)"),
        ({"freeze": 1.0}, "placement.freeze must lie in"),
    ],
)
def test_keys_that_are_wrong(keys: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PlacementConfig(**{"budget": "0.9"} | keys)


@pytest.mark.parametrize("unit", ["multiply-adds", "ms", "share"])
@pytest.mark.parametrize(("closed", "added"), [(13_234_048, 3_014_656), (0.913, 0.087), (1, 1), (999.96, 2), (3210, 9)])
def test_the_range_that_is_told_can_be_asked_for(unit: str, closed: float, added: float) -> None:
    """Rounded to the nearest its ends would be refused themselves."""
    prices = Prices(unit="ms" if unit == "ms" else "multiply-adds", size=(8, 8), closed=closed, added=(added,))
    outside = {"multiply-adds": "9T", "ms": "1000000ms", "share": "0.0001"}[unit]
    with pytest.raises(UserError) as caught:
        prices.room(Budget.read(outside))
    said = str(caught.value)
    assert "e+" not in said
    for end in said.split("give a budget from ")[1].split(" to "):
        assert 0 <= prices.room(Budget.read(end)) < added


def test_what_saves_nothing_is_told() -> None:
    """A kernel larger than the grid costs more than the attention that it takes the place of."""
    prices = Prices(unit="multiply-adds", size=(8, 8), closed=6.0, added=(-1.0, -3.0))
    with pytest.raises(UserError, match=r"nothing is saved by closing \(does placement\.kernel_size exceed the grid"):
        prices.room(Budget.read("0.9"))


def test_costs_are_told_without_powers_of_ten() -> None:
    told = [shown(cost, "multiply-adds") for cost in (0, 999.4, 999.7, 999_960, 1.234e13)]
    words = ["0", "999", "1 k", "1 M", "12.3 T"]
    assert told == [f"{word} multiply-adds" for word in words]
    assert [shown(cost, "ms") for cost in (0.00123, 43.21, 3214)] == ["0.00123 ms", "43.2 ms", "3,210 ms"]


def test_places_that_no_choice_within_the_budget_can_open() -> None:
    prices = Prices(unit="multiply-adds", size=(64, 64), closed=100.0, added=(40.0, 10.0, 30.0))
    assert prices.too_dear(Budget(130, "multiply-adds")) == [0], "30 fits, 40 does not"
    assert prices.too_dear(Budget(0.75, "share")) == [0] and prices.too_dear(Budget(109, "multiply-adds")) == [0, 1, 2]
