"""Ways of a part that are compared are ways of the same."""

import pytest
import torch

from contagg.benchmark.variants import Setting
from tools.kernels import kernels, parts

SETTING = Setting(device=torch.device("cpu"), precision="fp32", batch=2, size=48)


@pytest.mark.parametrize("grid", [(5, 7), (3, 11)])
def test_ways_give_the_same(grid: tuple[int, int]) -> None:
    tokens = torch.randn(3, grid[0] * grid[1], 64)
    ways = parts(64, grid, SETTING, attends=True)
    assert list(ways) == ["projection", "depthwise 5 x 5", "MLP", "attention"]
    with torch.no_grad():
        for part in ways.values():
            answers = {way: compute(tokens) for way, compute in part.items()}
            linear = answers.pop("without GELU", None)
            expected, *others = answers.values()
            for other in others:
                torch.testing.assert_close(other, expected, rtol=1e-4, atol=1e-5)
            assert linear is None or not torch.allclose(linear, expected, atol=0.01)


def test_a_row_a_way() -> None:
    rows = kernels(SETTING, rounds=2)
    assert [(row.stage, row.tokens) for row in rows if row.way == "matrix product" and row.passes == "forward"] == [
        (1, 144), (2, 36), (3, 9), (4, 4)
    ]  # fmt: skip
    assert {row.stage for row in rows if row.part == "attention"} == {4}
    assert all(row.milliseconds > 0 for row in rows)
    assert all(row.of_first == 1 for row in rows if row.way in ("matrix product", "channels last", "fused"))
