"""All placements of attention that there are, by the rows of `contagg compare`: what each costs and reaches."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from scipy.stats import kendalltau
from sklearn.metrics import jaccard_score

import contagg
from contagg.benchmark.cost import multiply_adds
from contagg.lab.findings import Curve
from contagg.lab.intervals import Interval, interval
from contagg.lab.rows import Row
from contagg.yaml_file import read_yaml
from tools.comparisons import content_of, with_interval

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes/placement/imagenette.yaml"
LIGHT = (False, False, False, True)
"""The authors' choice by hand."""
Stages = tuple[bool, ...]
"""Of each stage, whether its dynamic affinity is open."""


def last(rows: Iterable[Row], metric: str) -> dict[Stages, dict[int, float]]:
    """Of each choice of stages, by seed: the metric at the last epoch, in per cent."""
    found: dict[Stages, dict[int, float]] = {}
    for row in rows:
        found.setdefault(opened(row), {})[row["seed"]] = 100 * Curve.of(row, metric).values[-1]
    return found


@dataclass(frozen=True)
class Truth:
    """Accuracy in per cent of each choice of stages, by seed, and what it costs.

    Attributes:
        costs: Multiply-adds of an image.
        milliseconds: Of a batch's inference and of a training step, where `contagg compare` has timed them.
    """

    accuracies: Mapping[Stages, Mapping[int, float]]
    costs: Mapping[Stages, int]
    milliseconds: Mapping[Stages, tuple[float, float]]

    @classmethod
    def read(cls, path: Path, recipe: Path = RECIPE) -> "Truth":
        """Of the rows of `contagg compare`; all choices must have the same seeds to count."""
        content = content_of(path)
        rows, timed = content["rows"], content["costs"].get("arms", {})
        found, model = last(rows, "accuracy"), read_yaml(recipe)["model"]
        times = {
            opened(row): (cost["inference_ms"], cost["train_ms"]) for row in rows if (cost := timed.get(row["arm"]))
        }
        return cls(found, {stages: _cost(model, stages) for stages in found}, times)

    @property
    def seeds(self) -> list[int]:
        """That all choices have."""
        return sorted(set.intersection(*(set(values) for values in self.accuracies.values())))

    def mean(self, stages: Stages) -> float:
        """Over the seeds that all have."""
        return fmean(self.accuracies[stages][seed] for seed in self.seeds)

    def within(self, cost: float) -> list[Stages]:
        """The choices that cost no more."""
        return [stages for stages in self.accuracies if self.costs[stages] <= cost * (1 + 1e-9)]

    def effect(self, stage: int) -> Interval:
        """Of opening a stage: the mean over the pairs that differ in it alone, and its interval over seeds."""
        pairs = [(stages, (*stages[:stage], True, *stages[stage + 1 :])) for stages in self.accuracies]
        pairs = [(closed, open_) for closed, open_ in pairs if not closed[stage] and open_ in self.accuracies]
        return interval(
            [
                fmean(self.accuracies[open_][seed] - self.accuracies[closed][seed] for closed, open_ in pairs)
                for seed in self.seeds
            ]
        )

    def agreement(self, scores: Sequence[float]) -> float:
        """Kendall's tau of all choices' accuracy and the sum of their open stages' scores."""
        choices = list(self.accuracies)
        sums = [sum(score for score, is_open in zip(scores, stages, strict=True) if is_open) for stages in choices]
        return float(kendalltau(sums, [self.mean(stages) for stages in choices]).statistic)


def opened(row: Mapping[str, Any]) -> Stages:
    """Of a row's words for the stages, or one for all: those with a mixture are open. The recipe's own are."""
    words = row["changes"].get("model.options.affinity", "+")
    return tuple("+" in word for word in ([words] * 4 if isinstance(words, str) else words))


def _cost(model: Mapping[str, Any], stages: Stages) -> int:
    mixture = model["options"]["affinity"]
    words = tuple(mixture if is_open else mixture.split("+")[1].strip() for is_open in stages)
    size = model["image_size"]
    network = contagg.create(model["name"], img_size=size, **{**model["options"], "affinity": words})
    return multiply_adds(network, (size, size), 3)


def stages_of(places: Sequence[str]) -> Stages:
    """Of labels of blocks such as 3.1."""
    return tuple(any(place.startswith(f"{stage}.") for place in places) for stage in range(1, 5))


def by_stage(scores: Mapping[str, float]) -> list[float]:
    """Sums over the blocks of each stage."""
    return [sum(score for place, score in scores.items() if place.startswith(f"{stage}.")) for stage in range(1, 5)]


def shown(stages: Stages) -> str:
    """Such as `1 4`."""
    return " ".join(str(number) for number, is_open in enumerate(stages, 1) if is_open) or "none"


in_points = partial(with_interval, digits=2)


def jaccard(choices: Sequence[Stages]) -> float:
    """The mean over pairs of what both open of what either does; 1 for pairs that open nothing."""
    pairs = list(combinations(choices, 2))
    return fmean(jaccard_score(*pair, zero_division=1.0) for pair in pairs) if pairs else 1.0
