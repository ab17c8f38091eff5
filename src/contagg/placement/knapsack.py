"""The best set within a budget, exactly."""

from collections.abc import Sequence


def best_set(values: Sequence[float], costs: Sequence[float], room: float) -> tuple[int, ...]:
    """Indices of the items of the largest sum of values whose costs sum up to `room` at most.

    Items go through one by one, and of the sets so far those are kept that no other is both worth more and cheaper
    than (Nemhauser and Ullmann, 1969). Of blocks that cost the same, as those of one stage do, few are kept. An item
    whose value is not above 0 is never taken; of sets that are worth the same the cheaper is.

    Args:
        values: Any numbers.
        costs: From 0.

    >>> best_set([2.0, 3.0, 4.0, -1.0], [1.0, 2.0, 3.0, 0.0], room=4.0)
    (0, 2)
    """
    room *= 1 + 1e-9  # a budget that was worked out as a sum of these costs is met by them
    front: list[tuple[float, float, tuple[int, ...]]] = [(0.0, 0.0, ())]
    for item, (value, cost) in enumerate(zip(values, costs, strict=True)):
        if value <= 0 or cost > room:
            continue
        taken = [(c + cost, v + value, (*chosen, item)) for c, v, chosen in front if c + cost <= room]
        front = _not_dominated(front, taken)
    return front[-1][2]


def _not_dominated(
    left: list[tuple[float, float, tuple[int, ...]]], right: list[tuple[float, float, tuple[int, ...]]]
) -> list[tuple[float, float, tuple[int, ...]]]:
    """Of two lists that ascend in cost and value one that does."""
    merged = sorted([*left, *right], key=lambda one: (one[0], -one[1]))
    kept = [merged[0]]
    for one in merged[1:]:
        if one[1] > kept[-1][1]:
            kept.append(one)
    return kept
