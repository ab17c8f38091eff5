"""Which places of a trained network to close: one by one, by how much the loss rises."""

import time
from collections.abc import Callable, Collection, Sequence
from math import inf

import torch

from contagg.errors import plural
from contagg.output import duration

Losses = Callable[[Collection[int]], list[float]]
"""One a batch, with the places of these numbers open."""


def greedy(
    losses_of: Losses, costs: Sequence[float], room: float, labels: Sequence[str]
) -> tuple[tuple[int, ...], list[float], list[float]]:
    """Close what raises the loss least for its cost, again and again, until the open ones fit.

    A rise is measured anew before it decides, since what was closed before changes it; those that were larger before
    are not looked at as long as a smaller one stands. In the end what was closed before something dearer is opened
    again where there is room for it now.

    Args:
        room: What the open ones may cost together.
        labels: A name a place, for what is printed.

    Returns:
        The numbers that stay open; of each the rise of the loss by its closing, when it was last measured; and that by
        its standard error over batches.
    """
    choice = _Choice(losses_of, costs, room * (1 + 1e-9), labels)
    choice.measure_all()
    choice.close()
    choice.open_again()
    rises, evidence = zip(*(choice.found[number] for number in range(len(costs))), strict=True)
    return tuple(sorted(choice.opened)), list(rises), list(evidence)


class _Choice:
    """The open places so far, and of each place the rise of the loss by its closing and that by its error."""

    def __init__(self, losses_of: Losses, costs: Sequence[float], limit: float, labels: Sequence[str]) -> None:
        self.losses_of, self.costs, self.limit, self.labels = losses_of, costs, limit, labels
        self.opened = set(range(len(costs)))
        self.found: dict[int, tuple[float, float]] = {}
        began = time.monotonic()
        self.base = losses_of(self.opened)
        self.seconds = time.monotonic() - began

    def measure_all(self) -> None:
        count, about = len(self.costs), duration(self.seconds * len(self.costs))
        print(
            f"placement: the loss is measured with each of {plural(count, 'place')} closed, in about {about}",
            flush=True,
        )
        for number in range(count):
            self._measure(number)

    def close(self) -> None:
        fresh = set(self.opened)
        while self._cost(self.opened) > self.limit:
            least = min(self.opened, key=lambda number: (self._rise_by_cost(number), number))
            if least not in fresh:
                self._measure(least)
                fresh.add(least)
                continue
            self._change(self.opened - {least}, f"closed {self.labels[least]}", self.found[least][0])
            fresh = set()

    def open_again(self) -> None:
        while fitting := [n for n in sorted(self.found) if n not in self.opened and self._fits(n)]:
            for number in fitting:
                self._measure(number)
            most = max(fitting, key=lambda number: self.found[number][0])
            if self.found[most][0] <= 0:
                return
            self._change(self.opened | {most}, f"opened {self.labels[most]} again", -self.found[most][0])

    def _measure(self, number: int) -> None:
        """The rise between the open places with and without this one."""
        others = self.losses_of(self.opened ^ {number})
        closed, opened = (others, self.base) if number in self.opened else (self.base, others)
        changes = torch.tensor(closed, dtype=torch.float64) - torch.tensor(opened, dtype=torch.float64)
        error = changes.std() / len(changes) ** 0.5 if len(changes) > 1 else torch.tensor(torch.nan)
        self.found[number] = float(changes.mean()), float(changes.mean() / error.clamp_min(1e-12))

    def _change(self, opened: set[int], what: str, rise: float) -> None:
        self.opened = opened
        self.base = self.losses_of(opened)
        print(f"placement: {what}, {len(opened)} of {len(self.costs)} are open: loss {rise:+.4f}", flush=True)

    def _cost(self, numbers: Collection[int]) -> float:
        return sum(self.costs[number] for number in numbers)

    def _fits(self, number: int) -> bool:
        return self._cost({*self.opened, number}) <= self.limit

    def _rise_by_cost(self, number: int) -> float:
        return self.found[number][0] / self.costs[number] if self.costs[number] > 0 else inf  # it would save nothing
