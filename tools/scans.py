"""What scans and the delta rule take beside a depthwise 7 x 7 and attention, at 56 x 56 tokens of 64 channels.

    python -m tools.scans

prints the least CPU time of one thread, taken in turns, so that other work on the machine weighs little, and by how
much it is more than the first's. docs/speed.md holds what it gave.
"""

import time
from collections.abc import Callable, Sequence

import torch

from contagg.affinity import Site, build_affinity
from contagg.benchmark.cost import keep_freed_memory

GRID, CHANNELS, ROUNDS = (56, 56), 64, 15
WORDS = ("dwconv7", "scan16", "cross scan16", "delta", "attention")


def passes(word: str, grid: tuple[int, int]) -> dict[str, Callable[[], object]]:
    """An image through an affinity, without gradients and with those of values, tokens and parameters."""
    affinity = build_affinity(word, Site(channels=CHANNELS, grid=grid))
    values, tokens = torch.randn(2, 1, grid[0] * grid[1], CHANNELS)

    def training() -> None:
        inputs = values.clone().requires_grad_(), tokens.clone().requires_grad_()
        affinity(*inputs, grid).sum().backward()

    return {"inference": torch.no_grad()(lambda: affinity(values, tokens, grid)), "training": training}


def milliseconds(
    words: Sequence[str] = WORDS, grid: tuple[int, int] = GRID, rounds: int = ROUNDS
) -> dict[tuple[str, str], float]:
    """The least CPU time of each word and pass, all in one run."""
    works = {(word, what): work for word in words for what, work in passes(word, grid).items()}
    least = dict.fromkeys(works, float("inf"))
    for turn in range(rounds + 1):
        for key, work in works.items():
            begin = time.process_time()
            work()
            if turn:  # the first warms up
                least[key] = min(least[key], 1000 * (time.process_time() - begin))
    return least


if __name__ == "__main__":
    torch.set_num_threads(1)
    keep_freed_memory()
    found = milliseconds()
    for (word, what), took in found.items():
        print(f"{word:13} {what:10} {took:7.2f} ms {took / found[WORDS[0], what]:6.1f}")
