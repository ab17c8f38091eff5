import time

import pytest
import torch

from contagg.benchmark.timing import Spread, interleaved, keep_freed_memory, measure, peak_bytes, product

CPU = torch.device("cpu")


def test_quartiles() -> None:
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(2.0, 3.0, 4.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


def test_rounds_take_every_work_in_turn_after_a_warm_up() -> None:
    calls: list[str] = []
    works = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    assert list(interleaved(works, 3, CPU)) == ["a", "b"]
    assert calls == ["a", "b"] * 4


def test_seconds_are_seconds() -> None:
    assert 0.02 <= measure(lambda: time.sleep(0.02), CPU) < 2


def test_peak_is_of_what_lives_at_once() -> None:
    def work() -> None:
        for _ in range(3):
            first = torch.ones(1000, 1000)
            second = first + 1
            del first, second

    held = torch.ones(500, 1000)
    assert peak_bytes(work, CPU) == pytest.approx(8e6, rel=0.01)
    assert len(held) == 500


def test_a_product_counts_its_multiply_adds() -> None:
    work, products = product(CPU, torch.float32, seconds=1e-4)
    result = work()
    assert isinstance(result, torch.Tensor) and products == result.shape[0] ** 3 >= 128**3


def test_keeping_memory_says_whether_it_works() -> None:
    assert keep_freed_memory() in (True, False)
