"""Memory of training: linear in the tokens on the fast path, quadratic where A is formed."""

import numpy as np
import torch

import contagg
from tools.memory import FAST, FORMED, MemoryRow, forming, memory, memory_against_tokens

CPU = torch.device("cpu")


def test_forming_answers_alike() -> None:
    for name in ("container_tiny", "container_light_tiny"):
        torch.manual_seed(0)
        model = contagg.create(name, num_classes=7).double().eval()
        images = torch.randn(2, 3, 47, 83, dtype=torch.float64)
        with torch.no_grad():
            torch.testing.assert_close(forming(model)(images), model(images), rtol=1e-9, atol=1e-9)


def test_the_fast_path_grows_with_the_tokens_and_the_other_with_their_square() -> None:
    rows = list(memory(["container_tiny"], CPU, [(128, 128), (256, 256)]))
    peaks = {(row.path, row.height): row.peak_megabytes for row in rows}
    assert [row.tokens for row in rows] == [1024, 4096, 1024, 4096]
    assert 3 < peaks[FAST, 256] / peaks[FAST, 128] < 4.5  # type: ignore[operator]
    assert peaks[FORMED, 256] / peaks[FORMED, 128] > 9  # type: ignore[operator]


def test_what_does_not_fit_is_not_tried_and_ends_its_line() -> None:
    rows = list(memory(["container_tiny"], CPU, [(64, 64), (96, 96), (320, 344)], available=10**9))
    formed = [row for row in rows if row.path == FORMED]
    assert formed[1].peak_megabytes and formed[2].peak_megabytes is None
    assert "of 1.0" in formed[2].note and formed[2].tokens == 80 * 86
    fast, ended = memory_against_tokens(rows, "here").axes[0].lines
    assert np.isfinite(fast.get_ydata()).tolist() == [True] * 3  # type: ignore[call-overload]
    assert np.isfinite(ended.get_ydata()).tolist() == [True, True, False]  # type: ignore[call-overload]


def test_a_picture_of_rows() -> None:
    row = MemoryRow(model="a", path=FAST, height=64, width=64, tokens=256, peak_megabytes=3.0)
    assert memory_against_tokens([row], "here").axes[0].get_title() == "here"
