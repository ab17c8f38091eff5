"""Order and randomness are functions of keys: nothing else may change a sample."""

import logging
import pickle
import random
from collections import Counter

import numpy as np
import pytest
import torch

from contagg.data.decode import UnreadableSampleError
from contagg.data.sampling import (
    IGNORE_INDEX,
    EvaluationSampler,
    KeyedDataset,
    KeyedSampler,
    hashed,
    seed_sample,
    seed_step,
    uniform,
)
from contagg.errors import UserError


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


class Numbers:
    """Sample i is (i, i % 3); those in `broken` cannot be read."""

    def __init__(self, length: int, broken: frozenset[int] = frozenset()) -> None:
        self.length, self.broken = length, broken

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[int, int]:
        if index in self.broken:
            raise UnreadableSampleError(self.name(index), "torn")
        return index, index % 3

    def name(self, index: int) -> str:
        return f"number {index}"


def noisy(value: object) -> torch.Tensor:
    number = float(value) if isinstance(value, int) else 0.0
    return torch.tensor([number, *draws()], dtype=torch.float64)


def test_hash_is_splitmix64() -> None:
    # The first outputs of splitmix64 from the states 0 and 1, as its users publish them.
    assert hashed(np.array([0, 1])).tolist() == [0xE220A8397B1DCDAF, 0x910A2DEC89025CC1]


def test_hash_depends_on_every_part_and_its_place() -> None:
    values = [hashed(*parts).item() for parts in [(1, 2, 3), (1, 3, 2), (2, 1, 3), (1, 2), (1, 2, 3, 0)]]
    assert len(set(values)) == 5


def test_uniform_numbers_look_uniform() -> None:
    numbers = np.stack([uniform(np.arange(20_011, dtype=np.uint64), draw) for draw in range(3)])
    assert numbers.min() >= 0 and numbers.max() < 1
    counts = np.stack([np.histogram(row, bins=10, range=(0, 1))[0] for row in numbers])
    assert np.abs(counts / 2001.1 - 1).max() < 0.1
    assert np.abs(np.corrcoef(numbers)[~np.eye(3, dtype=bool)]).max() < 0.03


def test_seed_sample_sets_all_three_generators() -> None:
    seed_sample(17)
    first = draws()
    draws()
    seed_sample(17)
    assert draws() == first
    seed_sample(18)
    assert all(a != b for a, b in zip(draws(), first, strict=True))


def test_seed_step_depends_on_each_part() -> None:
    seen = set()
    for parts in [(1, 2, 3, 4), (9, 2, 3, 4), (1, 9, 3, 4), (1, 2, 9, 4), (1, 2, 3, 9)]:
        seed_step(*parts)
        seen.add(draws())
    assert len(seen) == 5
    seed_step(1, 2, 3, 4)
    assert draws() in seen


def test_epochs_are_shuffled_differently_and_whole() -> None:
    sampler = KeyedSampler(23, seed=5, batch_size=4)
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] == orders[2] != orders[1]
    for order in orders:
        indices = [index for index, _ in order]
        assert len(order) == len(sampler) == 20 and len(set(indices)) == 20 and set(indices) < set(range(23))
    assert not {key for _, key in orders[0]} & {key for _, key in orders[1]}
    assert [index for index, _ in orders[0]] != [index for index, _ in orders[1]]
    assert [i for i, _ in KeyedSampler(23, seed=6, batch_size=4)] != [i for i, _ in orders[0]]


def test_order_is_pinned() -> None:
    # A change here would break every run in progress and every published result.
    assert [index for index, _ in KeyedSampler(11, seed=0, batch_size=11)] == [0, 1, 9, 4, 2, 3, 6, 8, 7, 10, 5]


def test_first_places_are_uniform_over_seeds() -> None:
    firsts = Counter(next(iter(KeyedSampler(5, seed=seed, batch_size=5)))[0] for seed in range(1000))
    assert set(firsts) == set(range(5)) and max(firsts.values()) < 260 and min(firsts.values()) > 140


@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_same_batches_at_any_world_size(world_size: int) -> None:
    def batches(world: int) -> list[Counter]:
        size = 12 // world
        samplers = [KeyedSampler(50, seed=3, batch_size=size, rank=rank, world_size=world) for rank in range(world)]
        rows = [list(sampler) for sampler in samplers]
        assert {len(row) for row in rows} == {4 * size}
        return [Counter(item for row in rows for item in row[t * size : (t + 1) * size]) for t in range(4)]

    assert batches(world_size) == batches(1)
    assert sum(batches(1), Counter()).total() == 48


@pytest.mark.parametrize("rank", [0, 1])
def test_starts_in_the_midst_of_one_epoch_only(rank: int) -> None:
    def sampler() -> KeyedSampler:
        return KeyedSampler(61, seed=7, batch_size=5, rank=rank, world_size=2)

    whole = sampler()
    whole.set_epoch(4)
    resumed = sampler()
    resumed.start_at(4, 2)
    assert list(resumed) == list(whole)[10:]
    assert len(resumed) == len(whole) == 30
    resumed.set_epoch(5)
    whole.set_epoch(5)
    assert list(resumed) == list(whole)


def test_without_shuffling_the_order_is_that_of_the_data() -> None:
    assert [index for index, _ in KeyedSampler(10, seed=1, batch_size=3, shuffle=False)] == list(range(9))


def test_repeats_follow_each_other_with_keys_of_their_own() -> None:
    order = list(KeyedSampler(30, seed=1, batch_size=5, repeats=3))
    assert len(order) == 30 and len({key for _, key in order}) == 30
    indices = np.array([index for index, _ in order]).reshape(10, 3)
    assert (indices == indices[:, :1]).all() and len(set(indices[:, 0])) == 10


@pytest.mark.parametrize(("length", "world_size"), [(1, 3), (7, 1), (7, 2), (8, 2), (11, 4)])
def test_evaluation_takes_each_once_in_equal_shares(length: int, world_size: int) -> None:
    shares = [list(EvaluationSampler(length, rank, world_size)) for rank in range(world_size)]
    assert {len(share) for share in shares} == {len(EvaluationSampler(length, 0, world_size))}
    indices = sorted(index for share in shares for index, _ in share if index != IGNORE_INDEX)
    assert indices == list(range(length))
    assert all(key is None for share in shares for _, key in share)


def test_samples_depend_on_their_key_alone() -> None:
    data = KeyedDataset(Numbers(9), noisy)
    items = [(4, 101), (2, 102), (4, 103)]
    images, targets = data.__getitems__(items)
    random.seed(99)
    torch.manual_seed(99)
    again, _ = data.__getitems__(items[::-1])
    assert torch.equal(images, again.flip(0))
    assert targets.tolist() == [1, 2, 1]
    assert (images[0, 1:] != images[2, 1:]).all()


def test_unreadable_is_replaced_named_and_counted_once(caplog: pytest.LogCaptureFixture) -> None:
    data = KeyedDataset(Numbers(40, frozenset({3, 5})), noisy, max_unreadable_fraction=0.05)
    with caplog.at_level(logging.WARNING):
        replaced = [data[3, key][0][0].item() for key in (1, 2, 3, 1)]
    assert replaced[0] == replaced[3] and len(set(replaced)) == 3 and 3 not in replaced
    assert data.unreadable == [3]
    assert [record.getMessage().count("number 3: torn") for record in caplog.records] == [1]
    data[5, 1]
    data.check()


def test_too_many_unreadable_stop_with_their_names() -> None:
    data = KeyedDataset(Numbers(40, frozenset(range(7))), noisy, max_unreadable_fraction=0.15)
    for index in range(7):
        data[index, 1]
    with pytest.raises(
        UserError, match=r"7 of 40 images .* 0\.15 allows: number 0: torn; .*number 4: torn and 2 more$"
    ):
        data.check()


def test_one_unreadable_is_too_many_for_a_small_data_set() -> None:
    data = KeyedDataset(Numbers(40, frozenset({8})), noisy, max_unreadable_fraction=0.001)
    data.check()
    data[8, 1]
    with pytest.raises(UserError, match=r"1 of 40 images cannot be read.*allows: number 8: torn$"):
        data.check()


def test_unreadable_and_padding_are_ignored_in_evaluation() -> None:
    data = KeyedDataset(Numbers(5, frozenset({1})), noisy)
    _, targets = data.__getitems__([(0, None), (1, None), (2, None), (IGNORE_INDEX, None)])
    assert targets.tolist() == [0, IGNORE_INDEX, 2, IGNORE_INDEX]
    assert data.unreadable == [1]


def test_nothing_readable_does_not_hang() -> None:
    data = KeyedDataset(Numbers(3, frozenset(range(3))), noisy)
    assert data[0, 1][1] == IGNORE_INDEX
    with pytest.raises(UserError, match="3 of 3"):
        data.check()


def test_evaluation_draws_nothing() -> None:
    data = KeyedDataset(Numbers(5), lambda value: torch.tensor(value))
    before = random.getstate(), torch.get_rng_state()
    data[2, None]
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])


def test_data_set_can_be_sent_to_a_worker() -> None:
    assert len(pickle.loads(pickle.dumps(KeyedSampler(9, seed=1, batch_size=2)))) == 8
    assert str(pickle.loads(pickle.dumps(UnreadableSampleError("a", "b")))) == "a: b"
