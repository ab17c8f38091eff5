"""Means, intervals and differences of few runs: Student's t, pairs by seed, Holm's adjustment for many arms.

Shapes: S seeds, A arms.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from scipy.special import stdtr, stdtrit

LEVEL = 0.95
"""Of all intervals; a difference counts as real where its adjusted p is at most 1 - LEVEL."""

SAME = 1e-6
"""Values that differ by less, relative to the largest, are the same: rows hold seven digits."""


@dataclass(frozen=True)
class Interval:
    """A mean, and between what it lies with probability LEVEL; NaN where values allow no interval."""

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
    """Of one arm from another over the seeds of both: interval, and the probability of as large a one by chance.

    NaN is what is not known: all of it without a seed of both, interval and p of one seed, or where all seeds give the
    same difference. The share of a few hundred images takes few values, so that two equal differences are common, and
    a t test would call them certain. Of runs that are equal in all seeds p is 1.
    """

    interval: Interval
    p: float
    seeds: int


def interval(values: Sequence[float], noise: "Pooled | None" = None) -> Interval:
    """Of the mean of S values, by Student's t; none where all are the same, which does not tell how they waver.

    With one noise for all arms it is by that. Of values that are not all finite not even the mean is known: NaN.

    >>> interval([1.0, 2.0, 3.0])
    Interval(mean=2.0, low=-0.48413771175033027, high=4.48413771175033)
    """
    return noise.around(values) if noise else _interval(values, max(map(abs, values)))


def paired(values: Mapping[int, float], reference: Mapping[int, float]) -> Difference:
    """Of two arms' values by seed: the paired t test over the seeds that both have.

    >>> paired({0: 0.5, 1: 0.625}, {0: 0.25, 1: 0.375}).p  # twice 0.25: how it wavers is not known
    nan
    """
    seeds = sorted(values.keys() & reference.keys())
    if not seeds:
        return Difference(Interval(math.nan, math.nan, math.nan), math.nan, 0)
    differences = [values[seed] - reference[seed] for seed in seeds]
    largest = max(abs(each[seed]) for each in (values, reference) for seed in seeds)
    found = _interval(differences, largest)
    if not math.isnan(found.low):
        return Difference(found, probability(found.mean, _error(differences), len(seeds) - 1), len(seeds))
    equal = len(seeds) > 1 and abs(found.mean) <= SAME * largest
    return Difference(found, 1.0 if equal else math.nan, len(seeds))


def _interval(values: Sequence[float], largest: float) -> Interval:
    if not all(map(math.isfinite, values)):
        return Interval(math.nan, math.nan, math.nan)
    error = _error(values)
    wavers = error > SAME * largest  # not of one value, whose error is NaN
    return Interval.around(fmean(values), error if wavers else math.nan, len(values) - 1)


def _error(values: Sequence[float]) -> float:
    """The standard error of the mean of values; NaN of one."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def probability(difference: float, error: float, freedom: float) -> float:
    """Two-sided p of a difference with this standard error, by Student's t."""
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
    """One noise for all arms: what is left of their values once each arm's and each seed's part is taken away.

    With A arms of the same S seeds it has (A - 1)(S - 1) degrees of freedom, where a pair's own has S - 1: few seeds
    then say far more, if runs of all arms waver alike. Arms need not have the same seeds: the parts are a fit by least
    squares to what runs there are, and a run of a seed or an arm that no other has tells nothing.

    Attributes:
        deviation: Of one run.
        freedom: Degrees of freedom.
    """

    deviation: float
    freedom: int

    @classmethod
    def of(cls, values: Sequence[Mapping[int, float]]) -> "Pooled | None":
        """Of each arm's values by seed.

        None of fewer than three arms with two seeds, where it says no more than pairs do, and where nothing wavers.
        """
        finite = [own for own in values if all(map(math.isfinite, own.values()))]
        if sum(len(own) > 1 for own in finite) < 3:
            return None
        seeds = sorted(set().union(*finite))
        cells = [(arm, seeds.index(seed), value) for arm, own in enumerate(finite) for seed, value in own.items()]
        arm, seed, found = (np.array(column) for column in zip(*cells, strict=True))
        design = np.concatenate([np.eye(len(finite))[arm], np.eye(len(seeds))[seed]], axis=1)
        parts, _, rank, _ = np.linalg.lstsq(design, found)
        freedom = len(found) - int(rank)
        if freedom < 1:
            return None
        deviation = math.sqrt(float(((found - design @ parts) ** 2).sum()) / freedom)
        return cls(deviation, freedom) if deviation > SAME * np.abs(found).max() else None

    def around(self, values: Sequence[float]) -> Interval:
        """Of the mean of an arm's values."""
        return Interval.around(fmean(values), self.deviation / math.sqrt(len(values)), self.freedom)

    def difference(self, mean: float, seeds: int) -> Interval:
        """Of a mean difference of two arms over so many seeds of both."""
        return Interval.around(mean, self.deviation * math.sqrt(2 / seeds), self.freedom)

    def probability(self, difference: float, seeds: int) -> float:
        """Two-sided p of a mean difference of two arms over so many seeds of both; NaN without one."""
        if not seeds:
            return math.nan
        return probability(difference, self.deviation * math.sqrt(2 / seeds), self.freedom)
