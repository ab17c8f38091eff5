"""Means, intervals and differences of few runs: Student's t, pairs by seed, Holm's adjustment for many arms.

Shapes: S seeds, A arms.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.special import stdtr, stdtrit

LEVEL = 0.95
"""Of all intervals; a difference counts as real where its adjusted p is at most 1 - LEVEL."""


@dataclass(frozen=True)
class Interval:
    """A mean, and between what it lies with probability LEVEL; NaN where one value allows no interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def around(cls, mean: float, error: float, freedom: float) -> "Interval":
        """`error` is the mean's standard error, of `freedom` degrees of freedom."""
        reach = float(stdtrit(freedom, (1 + LEVEL) / 2)) * error if freedom > 0 else math.nan
        return cls(mean, mean - reach, mean + reach)


@dataclass(frozen=True)
class Difference:
    """Of one arm from another over the seeds of both: interval, and the probability of as large a one by chance."""

    interval: Interval
    p: float
    seeds: int


def interval(values: Sequence[float]) -> Interval:
    """Of the mean of S values, by Student's t.

    >>> interval([1.0, 2.0, 3.0])
    Interval(mean=2.0, low=-0.48413771175033027, high=4.48413771175033)
    """
    if len(values) < 2:
        return Interval.around(fmean(values), math.nan, 0)
    return Interval.around(fmean(values), stdev(values) / math.sqrt(len(values)), len(values) - 1)


def paired(values: Mapping[int, float], reference: Mapping[int, float]) -> Difference:
    """Of two arms' values by seed: the paired t test over the seeds that both have, of which there is one at least."""
    seeds = sorted(values.keys() & reference.keys())
    differences = [values[seed] - reference[seed] for seed in seeds]
    found = interval(differences)
    if len(seeds) < 2:
        return Difference(found, math.nan, len(seeds))
    return Difference(
        found, probability(found.mean, stdev(differences) / math.sqrt(len(seeds)), len(seeds) - 1), len(seeds)
    )


def probability(difference: float, error: float, freedom: float) -> float:
    """Two-sided p of a difference with this standard error, by Student's t."""
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * stdtr(freedom, -abs(difference) / error))


def holm(probabilities: Sequence[float]) -> list[float]:
    """Adjusted so that the chance of any false finding among them stays what it says (Holm, 1979). NaN stays NaN.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    known = sorted((p, place) for place, p in enumerate(probabilities) if not math.isnan(p))
    adjusted, highest = [math.nan] * len(probabilities), 0.0
    for rank, (p, place) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        adjusted[place] = highest
    return adjusted


@dataclass(frozen=True)
class Pooled:
    """One noise for all arms: what is left of (A, S) values once each arm's and each seed's mean is taken away.

    With A arms it has (A - 1)(S - 1) degrees of freedom, where a pair's own has S - 1: few seeds then say far more, if
    runs of all arms waver alike.

    Attributes:
        deviation: Of one run.
        freedom: Degrees of freedom.
        seeds: S.
    """

    deviation: float
    freedom: int
    seeds: int

    @classmethod
    def of(cls, values: Sequence[Sequence[float]]) -> "Pooled | None":
        """None of fewer than three arms or two seeds, where it says no more than pairs do."""
        arms, seeds = len(values), len(values[0]) if values else 0
        if arms < 3 or seeds < 2:
            return None
        arm_means, total = [fmean(row) for row in values], fmean(value for row in values for value in row)
        seed_means = [fmean(row[seed] for row in values) for seed in range(seeds)]
        left = sum(
            (value - arm_mean - seed_mean + total) ** 2
            for row, arm_mean in zip(values, arm_means, strict=True)
            for value, seed_mean in zip(row, seed_means, strict=True)
        )
        freedom = (arms - 1) * (seeds - 1)
        return cls(math.sqrt(left / freedom), freedom, seeds)

    @property
    def error(self) -> float:
        """The standard error of a difference of two arms' means."""
        return self.deviation * math.sqrt(2 / self.seeds)

    def probability(self, difference: float) -> float:
        """Two-sided p of a difference of two arms' means."""
        return probability(difference, self.error, self.freedom)
