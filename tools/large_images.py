"""`python -m tools.large_images`: container at 800 x 1333 with cheaper affinities where its maps are wide.

Its attention takes time that grows with the square of the tokens, of which the first stage has 66,800 there. Here the
dynamic part of stages 1 and 2 is another word; stages 3 and 4 stay as they are. Every round times each network once.
Writes large_images.csv and .json.

Command   python -m tools.large_images results/DEVICE
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from contagg.benchmark.bench import describe
from contagg.benchmark.cost import interleaved, multiply_adds, parameter_count, peak_bytes
from contagg.models import create
from contagg.nn.fuse import fuse
from tools.timed import read_arguments, write_rows

SIZE = (800, 1333)
WHOLE = "attention + dwconv3"
WORDS = (
    WHOLE,
    "linear + dwconv3",
    "pooled4 + dwconv3",
    "window7 + dwconv3",
    "neighborhood7 + dwconv3",
    "dwconv3",
)
"""Of stages 1 and 2; the first makes `container` itself."""


@dataclass(frozen=True, kw_only=True)
class LargeRow:
    """One image, fp32, inference form. `times_faster` is against `container` in the same rounds."""

    word: str
    parameters: int
    multiply_adds: int
    seconds_low: float
    seconds_median: float
    seconds_high: float
    times_faster: float
    peak_megabytes: float


def networks(words: Sequence[str] = WORDS, **sizes: object) -> dict[str, nn.Module]:
    """`container` by the word of its first two stages, without a head; `sizes` are fields of NetworkConfig."""
    made = {}
    for word in words:
        torch.manual_seed(0)
        made[word] = create("container", affinity=(word, word, WHOLE, WHOLE), num_classes=0, **sizes).eval()
    return made


@torch.inference_mode()
def measured(models: Mapping[str, nn.Module], size: tuple[int, int], rounds: int) -> list[LargeRow]:
    """A row for each network."""
    device, image = torch.device("cpu"), torch.randn(1, 3, *size)
    works = {word: partial(fuse(model), image) for word, model in models.items()}
    seconds = interleaved(works, rounds, device)
    first = seconds[next(iter(works))].median
    return [
        LargeRow(
            word=word,
            parameters=parameter_count(models[word]),
            multiply_adds=multiply_adds(models[word], size),
            seconds_low=seconds[word].low,
            seconds_median=seconds[word].median,
            seconds_high=seconds[word].high,
            times_faster=first / seconds[word].median,
            peak_megabytes=peak_bytes(work, device) / 1e6,
        )
        for word, work in works.items()
    ]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    given = read_arguments(arguments, __doc__, rounds=3)
    rows = measured(networks(), SIZE, given.rounds)
    for row in rows:
        cost = f"{row.multiply_adds / 1e9:7.1f} GMACs {row.peak_megabytes:8.0f} MB"
        print(f"{row.word:28} {row.seconds_median:7.2f} s  {row.times_faster:5.1f} x {cost}")
    about = describe(torch.device("cpu")) | {"size": SIZE, "rounds": given.rounds}
    write_rows(given.folder, "large_images", rows, about)


if __name__ == "__main__":
    main()
