"""The places of one block closed, opened again, and left for good, each kind of them in its way.

Before anything is closed, what takes its place is fitted to what is static in A, by least squares.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from contagg.affinity import Affinity, DepthwiseConv, Grid
from contagg.affinity.fitting import HeadFit, kernel_beside, static_form
from contagg.affinity.static_heads import StaticHeads, with_static_heads
from contagg.nn.aggregation import Aggregation
from contagg.placement.places import Place


class Closing(ABC):
    """A block of one network."""

    def __init__(self, network: nn.Module, place: Place) -> None:
        self.aggregation: Aggregation = place.aggregation(network)

    @abstractmethod
    def see(self, tokens: Tensor, grid: Grid) -> None:
        """Look at A of a batch while all is open."""

    @abstractmethod
    def fit(self) -> None:
        """Make what takes the place of A, once enough was seen."""

    @abstractmethod
    def close(self, places: Sequence[Place]) -> None:
        """Close these of its places and open the others."""

    @abstractmethod
    def leave(self, places: Sequence[Place]) -> None:
        """Close these of its places for good."""

    def named(self, place: Place) -> Place:
        """One of its places with the word of what closing leaves, as it is known by now."""
        return place


class ClosingMixture(Closing):
    """The dynamic part of a mixture. Where the static part is a convolution, it takes the fitted kernel in."""

    def __init__(self, network: nn.Module, place: Place) -> None:
        super().__init__(network, place)
        self.mixture = place.mixture(network)
        self.kernel = kernel_beside(self.mixture)
        self.form: DepthwiseConv | None = None

    def see(self, tokens: Tensor, grid: Grid) -> None:
        if self.kernel is not None:
            self.kernel.add(tokens, grid)

    def fit(self) -> None:
        if self.kernel is not None:
            self.form = static_form(self.mixture, self.kernel.convolution(self.aggregation.value.in_features))

    def close(self, places: Sequence[Place]) -> None:
        if places:
            self.mixture.close()
        else:
            self.mixture.open()
        self.aggregation.affinity = (self.form if places else None) or self.mixture

    def leave(self, places: Sequence[Place]) -> None:
        self.close(places)
        if places and self.form is None:
            self.aggregation.leave_static()

    def named(self, place: Place) -> Place:
        return place if self.form is None else replace(place, static_word=self.form.word)


class ClosingHeads(Closing):
    """Heads of attention, each of which takes a static A of its own."""

    def __init__(self, network: nn.Module, place: Place) -> None:
        super().__init__(network, place)
        assert isinstance(self.aggregation.affinity, Affinity)
        self.attention = self.aggregation.affinity
        self.heads = HeadFit(self.attention, place.kernel_size)
        self.static: StaticHeads | None = None

    def see(self, tokens: Tensor, grid: Grid) -> None:
        self.heads.add(tokens, grid)

    def fit(self) -> None:
        self.static = self.heads.heads(self.aggregation.value.in_features // self.attention.heads)

    def close(self, places: Sequence[Place]) -> None:
        affinity = self.attention
        if places:
            assert self.static is not None and self.heads.grid is not None
            closed = [place.head for place in places if place.head is not None]
            affinity = with_static_heads(self.attention, closed, self.static, self.heads.grid)
        self.aggregation.affinity = affinity

    def leave(self, places: Sequence[Place]) -> None:
        self.close(places)


def closing(network: nn.Module, place: Place) -> Closing:
    """Of the block of a place."""
    return ClosingMixture(network, place) if place.head is None else ClosingHeads(network, place)


def blocks_of(places: Sequence[Place]) -> list[list[int]]:
    """The numbers of the places of each block."""
    found: dict[str, list[int]] = {}
    for number, place in enumerate(places):
        found.setdefault(place.name, []).append(number)
    return list(found.values())


def all_closed(network: nn.Module, place: Place, grid: Grid) -> Affinity:
    """The affinity of a place's block with all of its places closed, as dear as one that is fitted."""
    aggregation = place.aggregation(network)
    affinity = aggregation.affinity
    assert isinstance(affinity, Affinity)
    if place.head is not None:
        width = aggregation.value.in_features // affinity.heads
        static = StaticHeads(affinity.heads, width, place.kernel_size, grid, affinity.prefix)
        return with_static_heads(affinity, affinity.open_heads(), static, grid)
    mixture = copy.deepcopy(affinity).closable()
    assert mixture is not None
    mixture.close()
    return mixture
