"""Intervals and tests equal scipy's, Holm's adjustment what is worked out by hand, one noise a fit by least squares."""

import math

import numpy as np
import pytest
from scipy import stats

from contagg.lab.intervals import Pooled, holm, interval, paired

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("count", [2, 3, 5, 13])
def test_an_interval_is_students(count: int) -> None:
    values = RNG.normal(0.7, 0.01, count)
    found = interval(values.tolist())
    right = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.mean, found.low, found.high) == pytest.approx((values.mean(), right.low, right.high), rel=1e-10)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_a_difference_is_of_pairs(count: int) -> None:
    noise = RNG.normal(0, 1, count)
    one, other = noise + RNG.normal(0.1, 0.1, count), noise
    found = paired(dict(enumerate(one)), dict(enumerate(other)))
    right = stats.ttest_rel(one, other)
    assert found.p == pytest.approx(right.pvalue, rel=1e-8)
    assert (found.interval.low, found.interval.high) == pytest.approx(right.confidence_interval(0.95), rel=1e-8)


def test_only_seeds_of_both_count() -> None:
    found = paired({0: 0.5, 1: 0.7, 4: 0.9}, {1: 0.5, 0: 0.4, 3: 0.0})
    assert found.seeds == 2 and found.interval.mean == pytest.approx(0.15)
    assert found.p == pytest.approx(stats.ttest_rel([0.5, 0.7], [0.4, 0.5]).pvalue)
    assert math.isnan(paired({0: 0.5}, {1: 0.5}).interval.mean) and math.isnan(paired({0: 0.5}, {1: 0.5}).p)


@pytest.mark.parametrize("seeds", [2, 3])
def test_values_that_do_not_waver_say_nothing_of_how_they_waver(seeds: int) -> None:
    """Of 359 images two runs often differ by the same few: that is chance, and no certainty."""
    one, other = ({seed: (300 + seed + more) / 359 for seed in range(seeds)} for more in (2, 0))
    found = paired(one, other)
    assert found.interval.mean == pytest.approx(2 / 359) and math.isnan(found.interval.low) and math.isnan(found.p)
    assert math.isnan(interval([0.3] * seeds).low) and interval([0.3] * seeds).mean == pytest.approx(0.3)
    assert Pooled.of([one, other, one]) is None


def test_few_images_make_no_false_findings() -> None:
    """Of two arms that are the same, one in twenty pairs of seeds is called different, however few the images."""
    shares = np.round(RNG.normal(0.97, 0.002, (4000, 2, 2)) * 359) / 359
    chances = [paired(dict(enumerate(one)), dict(enumerate(other))).p for one, other in shares.tolist()]
    assert sum(p <= 0.05 for p in chances) / len(chances) <= 0.05


def test_what_is_not_finite_has_no_interval() -> None:
    assert all(math.isnan(interval([0.3, bad]).mean) for bad in (math.inf, math.nan))


def test_one_seed_says_nothing() -> None:
    found = paired({0: 0.5}, {0: 0.4})
    assert found.interval.mean == pytest.approx(0.1) and math.isnan(found.interval.low) and math.isnan(found.p)
    assert math.isnan(interval([0.3]).high)


def test_equal_runs_do_not_differ() -> None:
    assert paired({0: 0.5, 1: 0.6}, {0: 0.5, 1: 0.6}).p == 1


def test_holm() -> None:
    nan = float("nan")
    assert holm([0.01, 0.02, 0.04]) == pytest.approx([0.03, 0.04, 0.04])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []
    found = holm([0.04, nan, 0.001])
    assert found[0] == pytest.approx(0.04) and math.isnan(found[1]) and found[2] == pytest.approx(0.002)


def test_one_noise_is_the_residual_of_two_ways() -> None:
    """Against least squares over arms and seeds."""
    arms, seeds = 5, 3
    values = RNG.normal(0, 1, (arms, seeds)) + 10 * np.arange(arms)[:, None] + 3 * np.arange(seeds)
    arm, seed = (place.ravel() for place in np.indices((arms, seeds)))
    design = np.concatenate([np.eye(arms)[arm], np.eye(seeds)[seed]], axis=1)
    fitted = design @ np.linalg.lstsq(design, values.ravel(), rcond=None)[0]
    freedom = arms * seeds - np.linalg.matrix_rank(design)
    found = Pooled.of([dict(enumerate(own)) for own in values.tolist()])
    assert found is not None and found.freedom == freedom
    assert found.deviation == pytest.approx(math.sqrt(((values.ravel() - fitted) ** 2).sum() / freedom))
    t = 0.7 / (found.deviation * math.sqrt(2 / seeds))
    assert found.probability(-0.7, seeds) == pytest.approx(2 * stats.t.sf(t, freedom))
    assert found.probability(-0.7, 2) == pytest.approx(2 * stats.t.sf(t * math.sqrt(2 / seeds), freedom))
    assert math.isnan(found.probability(-0.7, 0))
    for few in (values[:2], values[:, :1]):
        assert Pooled.of([dict(enumerate(own)) for own in few.tolist()]) is None


def test_one_noise_of_arms_whose_seeds_differ() -> None:
    """Runs that no other shares an arm or a seed with tell nothing; the others all that they tell by themselves."""
    whole = [dict(enumerate(own)) for own in RNG.normal(0, 1, (4, 3)).tolist()]
    found = Pooled.of(whole)
    for more in ({7: 9.0}, {0: 5.0}, {}):
        again = Pooled.of([*whole, more])
        assert again is not None and found is not None and again.freedom == found.freedom == 6
        assert again.deviation == pytest.approx(found.deviation)
    less = Pooled.of([*whole[:3], {0: whole[3][0], 2: whole[3][2]}])
    assert less is not None and less.freedom == 5
    assert Pooled.of([*whole, {0: math.inf, 1: 1.0}]) == found


def test_one_noise_holds_what_it_promises_of_seeds_that_differ() -> None:
    """Of arms that are the same, 5 of 100 differences have p up to 0.05, whichever runs are there."""
    chances = []
    for values in RNG.normal(0, 1, (1500, 4, 4)) + RNG.normal(0, 3, (1500, 1, 4)):
        there = [dict(enumerate(own)) for own in values.tolist()]
        del there[0][1], there[2][3], there[3][0]
        found, difference = Pooled.of(there), paired(there[1], there[0])
        assert found is not None and difference.seeds == 3
        chances.append(found.probability(difference.interval.mean, difference.seeds))
    assert 0.035 < sum(p <= 0.05 for p in chances) / len(chances) < 0.065


def test_intervals_hold_what_they_promise() -> None:
    """95 of 100 intervals of three values hold the true mean."""
    holds = sum(found.low <= 0.3 <= found.high for found in map(interval, RNG.normal(0.3, 1, (2000, 3)).tolist()))
    assert 0.93 < holds / 2000 < 0.97
