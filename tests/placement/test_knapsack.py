"""The best set within a budget: against all sets, one by one."""

import itertools
import time

import numpy as np
import pytest

from contagg.placement.knapsack import best_set


def by_force(values: list[float], costs: list[float], room: float) -> float:
    """The largest worth of any set that fits."""
    count = len(values)
    sets = itertools.chain.from_iterable(itertools.combinations(range(count), size) for size in range(count + 1))
    return max(sum(values[i] for i in one) for one in sets if sum(costs[i] for i in one) <= room)


@pytest.mark.parametrize("seed", range(30))
def test_it_is_as_good_as_the_best_of_all_sets(seed: int) -> None:
    draw = np.random.default_rng(seed)
    count = int(draw.integers(1, 11))
    values = draw.normal(0.5, 1, count).tolist()
    costs = draw.uniform(0.1, 1, count) if seed % 2 else draw.choice([1.0, 2.0, 3.5], count)
    room = float(draw.uniform(0, costs.sum()))
    found = best_set(values, costs.tolist(), room)
    assert sum(costs[i] for i in found) <= room
    assert all(values[i] > 0 for i in found) and list(found) == sorted(set(found))
    assert sum(values[i] for i in found) == pytest.approx(by_force(values, costs.tolist(), room))


def test_a_budget_that_is_the_sum_of_costs_is_met_by_them() -> None:
    assert best_set([1.0, 1.0, 1.0], [0.1, 0.2, 0.7], 0.1 + 0.2) == (0, 1)
    assert best_set([1.0, 1.0], [0.5, 0.25], 0.0) == ()
    assert best_set([-1.0, 0.0], [0.5, 0.25], 9.0) == ()


def test_of_sets_that_are_worth_the_same_the_cheaper_is_taken() -> None:
    assert best_set([1.0, 1.0], [2.0, 1.0], 2.0) == (1,)


def test_forty_blocks_of_several_costs_take_no_time() -> None:
    draw = np.random.default_rng(0)
    costs = np.repeat([7.1, 3.3, 2.9, 1.7], 10).tolist()
    began = time.process_time()
    assert best_set(draw.uniform(0, 1, 40).tolist(), costs, 60.0)
    assert time.process_time() - began < 5
