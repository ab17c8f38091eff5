"""What each place costs where it is open, at a stated image size: multiply-adds in closed form, or measured ms."""

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal
from typing import Any

import torch
from torch import Tensor, nn

from contagg.affinity import Affinity, Grid
from contagg.affinity.base import tokens_on
from contagg.benchmark.bench import describe
from contagg.benchmark.cost import Work, interleaved, multiply_adds
from contagg.benchmark.variants import DTYPES
from contagg.errors import UserError
from contagg.placement.closing import all_closed, blocks_of
from contagg.placement.config import Budget
from contagg.placement.places import Place

ROUNDS = 15
"""Of measuring; every round runs all parts once."""
_REFUSALS = (AssertionError, RuntimeError, ValueError)


@dataclass(frozen=True, kw_only=True)
class Prices:
    """The cost of one image with some places open: `closed`, and what each open place adds.

    Attributes:
        unit: Of all costs: multiply-adds or ms.
        size: (height, width) of the image in pixels.
        closed: With every place closed.
        added: One a place.
        device: Where milliseconds were measured, in words.

    >>> prices = Prices(unit="ms", size=(64, 64), closed=2.0, added=(1.0, 0.5), device="a CPU")
    >>> prices.cost([1]), prices.opened, prices.share([1])
    (2.5, 3.5, 0.3333333333333333)
    """

    unit: str
    size: tuple[int, int]
    closed: float
    added: tuple[float, ...]
    device: str = ""

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "Prices":
        """Those whose plain values these are."""
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in state.items()
        }
        return cls(**plain)

    @property
    def opened(self) -> float:
        """With every place open."""
        return self.cost(range(len(self.added)))

    def cost(self, opened: Collection[int]) -> float:
        """With the places of these numbers open."""
        return self.closed + sum(self.added[number] for number in opened)

    def share(self, opened: Collection[int]) -> float:
        """Of what all places add."""
        return (self.cost(opened) - self.closed) / sum(self.added)

    def room(self, budget: Budget) -> float:
        """What the open places may cost together. UserError, with the range, where no choice or every choice does."""
        whole = self.opened if budget.unit == "share" else 1.0
        limit = budget.value * whole
        if not self.closed <= limit < self.opened:
            closed, opened = self.closed / whole, self.opened / whole
            low, high = _typed(closed, budget.unit, ROUND_CEILING), _typed(opened, budget.unit, ROUND_FLOOR)
            advice = f"give a budget from {low} to {high}"
            if not closed < opened:
                advice = "nothing is saved by closing (does placement.kernel_size exceed the grid?)"
            raise UserError(
                f"placement.budget {shown(budget.value, budget.unit)}: at {self.size[0]} x {self.size[1]} pixels this "
                f"network costs {shown(closed, budget.unit)} with every dynamic part closed and "
                f"{shown(opened, budget.unit)} with all open: {advice}"
            )
        return limit - self.closed

    def too_dear(self, budget: Budget) -> list[int]:
        """Numbers of the places each of which alone costs more than all open ones together may.

        >>> Prices(unit="ms", size=(64, 64), closed=2.0, added=(1.0, 0.5), device="a CPU").too_dear(Budget(2.6, "ms"))
        [0]
        """
        room = self.room(budget)
        return [number for number, cost in enumerate(self.added) if cost > room]

    def told(self, labels: Sequence[str]) -> str:
        """In words, given the places' names."""
        added = (f"{label} {shown(cost, self.unit)}" for label, cost in zip(labels, self.added, strict=True))
        return (
            f"an image of {self.size[0]} x {self.size[1]} costs {shown(self.closed, self.unit)} with all closed, "
            f"{shown(self.opened, self.unit)} with all open, of which {', '.join(added)}"
        )


_PREFIXES = ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0)


def shown(cost: float, unit: str) -> str:
    """A cost in words.

    >>> shown(3.21e9, "multiply-adds"), shown(1234.5, "ms"), shown(0.71234, "share")
    ('3.21 G multiply-adds', '1,230 ms', '0.712 of all open')
    """
    if unit == "multiply-adds":
        rounded = _rounded(cost, 3, ROUND_HALF_EVEN)
        prefix, factor = next(((p, f) for p, f in _PREFIXES if rounded >= f), _PREFIXES[-1])
        return f"{_rounded(cost / factor, 3, ROUND_HALF_EVEN):,f} {prefix}".rstrip() + " multiply-adds"
    return f"{_rounded(cost, 3, ROUND_HALF_EVEN):,f}" + (" ms" if unit == "ms" else " of all open")


def _typed(cost: float, unit: str, rounding: str) -> str:
    """A budget as it is given that lies above a cost, or with ROUND_FLOOR below it.

    >>> _typed(13_234_048, "multiply-adds", ROUND_CEILING), _typed(1.0, "share", ROUND_FLOOR)
    ('13.24M', '0.9999')
    """
    prefix, factor = "ms" if unit == "ms" else "", 1.0
    if unit == "multiply-adds":
        prefix, factor = next(((p, f) for p, f in _PREFIXES[:-1] if cost >= f), _PREFIXES[-2])
    found = _rounded(cost / factor, 4, rounding)
    if rounding == ROUND_FLOOR and float(found) * factor >= cost:
        found = Context(prec=4).next_minus(found)
    return f"{found:f}{prefix}"


def _rounded(number: float, digits: int, rounding: str) -> Decimal:
    return Context(prec=digits, rounding=rounding).create_decimal(number).normalize()


def price(
    network: nn.Module, places: Sequence[Place], size: tuple[int, int], channels: int, unit: str, precision: str,
    device: torch.device,
) -> Prices:  # fmt: skip
    """The prices of a network's places for one image of a size; multiply-adds are worked out, ms measured once.

    What a place adds in ms is its affinity's time open less its time closed, on tokens of its grid, alone, of which
    each of a block's heads has its share; the sum of such parts need not be the whole's, so that `contagg place`
    measures the chosen network in the end.

    Raises:
        UserError: the network does not take images of this size.
    """
    with _fitting(size):
        network = at_size(network, size)
    seen = grids(network, places, size, channels)
    if unit == "ms":
        network = network.to(device, DTYPES[precision])
    parts = _parts(network, places, seen)
    if unit != "ms":
        added = [0.0] * len(places)
        for part in parts:
            more = part.opened.multiply_adds(part.grid) - part.closed.multiply_adds(part.grid)
            for number in part.numbers:
                added[number] = more / len(part.numbers)
        closed = float(multiply_adds(network, size, channels))
        return Prices(unit="multiply-adds", size=size, closed=closed, added=tuple(added))
    with _fitting(size):
        closed_ms, added_ms = _measured(network, parts, len(places), size, channels)
    about = describe(device)
    words = f"{about['device']}, torch {about['torch']}, {about['threads']} threads, {precision}"
    return Prices(unit="ms", size=size, closed=closed_ms, added=added_ms, device=words)


@contextmanager
def _fitting(size: tuple[int, int]) -> Iterator[None]:
    """UserError for what a network, or the machine's memory, says of a size that it cannot take."""
    try:
        yield
    except _REFUSALS as error:
        reason = " ".join(str(error).split())
        raise UserError(f"placement.at {size[0]}x{size[1]} does not fit this network: {reason}") from error


def at_size(network: nn.Module, size: tuple[int, int]) -> nn.Module:
    """A copy in eval mode for images of a size: what was learnt for one grid is resized where it can be.

    Raises:
        UserError: the network does not take images of this size.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    own: Any = next((module for module in network.modules() if hasattr(module, "set_input_size")), None)
    if own is not None and tuple(getattr(own, "img_size", size)) != size:
        own.set_input_size(size)
    return network


def grids(network: nn.Module, places: Sequence[Place], size: tuple[int, int], channels: int) -> list[Grid]:
    """The grid of each place for an image of a size. UserError where the network takes no such image."""
    found: dict[str, Grid] = {}
    hooks = [
        place.aggregation(network).register_forward_pre_hook(
            lambda _, inputs, name=place.name: found.__setitem__(name, tuple(inputs[1]))
        )
        for place in places
    ]
    try:
        with _fitting(size):
            multiply_adds(network, size, channels)
    finally:
        for hook in hooks:
            hook.remove()
    return [found[place.name] for place in places]


@dataclass(frozen=True)
class _Part:
    """The affinity of a block with all of its places open and with all closed, as it is in the network then."""

    numbers: list[int]
    opened: Affinity
    closed: Affinity
    grid: Grid
    channels: int


def _parts(network: nn.Module, places: Sequence[Place], seen: Sequence[Grid]) -> list[_Part]:
    """Close all places of a network; its blocks that have some."""
    parts = []
    for numbers in blocks_of(places):
        place, grid = places[numbers[0]], seen[numbers[0]]
        aggregation, closed = place.aggregation(network), all_closed(network, place, grid)
        assert isinstance(aggregation.affinity, Affinity)
        parts.append(_Part(numbers, aggregation.affinity, closed, grid, aggregation.value.in_features))
        aggregation.affinity = closed
    return parts


@torch.no_grad()
def _measured(
    network: nn.Module, parts: Sequence[_Part], count: int, size: tuple[int, int], channels: int
) -> tuple[float, tuple[float, ...]]:
    """ms of the network with all closed, and what each place adds; blocks that are alike are measured once."""
    like = next(network.parameters())
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, channels, *size, generator=generator).to(like)
    works: dict[str, Work] = {"closed": _work(network, image)}
    names = [f"{part.opened} on {part.grid}" for part in parts]
    for part, name in zip(parts, names, strict=True):
        shape = 1, tokens_on(part.grid, part.opened.prefix), part.channels
        tokens = torch.randn(shape, generator=generator).to(like)
        if f"{name} closed" in works:
            continue
        for state, affinity in (("open", part.opened), ("closed", part.closed)):
            works[f"{name} {state}"] = _work(affinity, tokens, tokens, part.grid)
    seconds = {name: spread.median for name, spread in interleaved(works, ROUNDS, like.device).items()}
    added = [0.0] * count
    for part, name in zip(parts, names, strict=True):
        more = 1000 * max(seconds[f"{name} open"] - seconds[f"{name} closed"], 0.0)
        for number in part.numbers:
            added[number] = more / len(part.numbers)
    return 1000 * seconds["closed"], tuple(added)


def _work(module: nn.Module, *inputs: Tensor | Grid) -> Work:
    def run() -> object:
        with torch.no_grad():
            return module(*inputs)

    return run
