"""`python -m tools.placements`: all placements of attention compared, and which rule finds the good ones.

Reads, under results/placement, truth/runs.json (`contagg compare` over all choices of stages), learnt.json (runs of
`contagg place`, added by `--add RUN...`) and rivals.json (tools/rivals), and writes docs/placement-results.md with its
picture. What is missing is said to be.
"""

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from matplotlib.figure import Figure
from scipy.stats import kendalltau
from sklearn.metrics import jaccard_score

import contagg
from contagg.benchmark.cost import multiply_adds
from contagg.errors import UserError
from contagg.figures import new_figure
from contagg.files import write_output
from contagg.lab.intervals import Interval, Pooled, interval, paired
from contagg.yaml_file import read_yaml
from tools.pictures import publish
from tools.twins import with_interval

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes/placement/imagenette.yaml"
LIGHT = (False, False, False, True)
"""The authors' choice by hand."""
Stages = tuple[bool, ...]
"""Of each stage, whether its dynamic affinity is open."""


@dataclass(frozen=True)
class Truth:
    """Accuracy in per cent of each choice of stages, by seed, and what it costs.

    Attributes:
        costs: Multiply-adds of an image.
    """

    accuracies: Mapping[Stages, Mapping[int, float]]
    costs: Mapping[Stages, int]

    @classmethod
    def read(cls, path: Path, recipe: Path = RECIPE) -> "Truth":
        """Of the rows of `contagg compare`; all choices must have the same seeds to count."""
        rows = json.loads(path.read_text())["rows"] if path.is_file() else []
        found: dict[Stages, dict[int, float]] = {}
        for row in rows:
            found.setdefault(opened(row["arm"]), {})[row["seed"]] = 100 * row["metrics"]["accuracy"][-1]
        model = read_yaml(recipe)["model"]
        return cls(found, {stages: _cost(model, stages) for stages in found})

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


def opened(arm: str) -> Stages:
    """Of an arm's words, or of one for all stages: those with a mixture are open."""
    words = [word.strip() for word in arm.split(",")]
    return tuple("+" in word for word in (words if len(words) > 1 else words * 4))


def _cost(model: Mapping[str, Any], stages: Stages) -> int:
    mixture = model["options"]["affinity"]
    words = tuple(mixture if is_open else mixture.split("+")[1].strip() for is_open in stages)
    size = model["image_size"]
    network = contagg.create(model["name"], img_size=size, **{**model["options"], "affinity": words})
    return multiply_adds(network, (size, size), 3)


def learnt_row(run: Path) -> dict[str, Any]:
    """What a finished run of `contagg place` found."""
    try:
        found, recipe = json.loads((run / "placement.json").read_text()), read_yaml(run / "recipe.yaml")
        with (run / "placement.csv").open() as file:
            reasons = list(csv.DictReader(file))
        with (run / "metrics.csv").open() as file:
            accuracy = float(list(csv.DictReader(file))[-1]["accuracy"])
    except (OSError, KeyError, IndexError) as error:
        raise UserError(f"{run} is no finished run of contagg place: {error}") from error
    return {
        "seed": recipe["run"]["seed"],
        "budget": found["budget"]["value"],
        "scores": {reason["place"]: float(reason["score"]) for reason in reasons},
        "chosen": found["chosen"],
        "accuracy": accuracy,
    }


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


def truth_section(truth: Truth) -> list[str]:
    """The table of all choices, what each stage is worth, and how much of the spread is noise."""
    if not truth.accuracies or len(truth.seeds) < 2:
        return ["## All placements", "", "Not run yet, or with one seed only.", ""]
    none, seeds = (False,) * 4, truth.seeds
    lines = [
        f"## All {len(truth.accuracies)} placements, {len(seeds)} seeds",
        "",
        "| stages with attention | million multiply-adds | accuracy, % | from none, points |",
        "|---|---|---|---|",
    ]
    for stages in sorted(truth.accuracies, key=lambda each: truth.costs[each]):
        values = {seed: truth.accuracies[stages][seed] for seed in seeds}
        reference = truth.accuracies[none]
        difference = "" if stages == none else in_points(paired(values, reference).interval, "+")
        accuracy = in_points(interval(list(values.values())))
        lines.append(f"| {shown(stages)} | {truth.costs[stages] / 1e6:.2f} | {accuracy} | {difference} |")
    pooled = Pooled.of(list(truth.accuracies.values()))
    wavers = pooled.deviation if pooled else 0.0
    spread = stdev(truth.mean(stages) for stages in truth.accuracies)
    lines += [
        "",
        f"The choices' means spread by {spread:.2f} points (standard deviation); one run wavers by "
        f"{wavers:.2f}, so that noise alone would spread the means by "
        f"{wavers / len(seeds) ** 0.5:.2f}.",
        "",
        "| opening stage | is worth, points, whatever else is open |",
        "|---|---|",
        *(f"| {stage + 1} | {in_points(truth.effect(stage), '+')} |" for stage in range(4)),
        "",
        "![Accuracy of all placements against their cost](pictures/placement_truth.png)",
        "",
    ]
    return lines


def rules_section(truth: Truth, learnt: Sequence[Mapping[str, Any]], rivals: Sequence[Mapping[str, Any]]) -> list[str]:
    """How well each rule orders the choices."""
    named: dict[str, list[float]] = {}
    for row in learnt:
        named.setdefault("learnt gates", []).append(truth.agreement(by_stage(row["scores"])))
    for row in rivals:
        for rule, scores in row["scores"].items():
            named.setdefault(rule, []).append(truth.agreement(by_stage(scores)))
    if not named:
        return []
    lines = ["## Which rule orders them", "", "| rule | Kendall's tau | runs |", "|---|---|---|"]
    lines += [f"| {rule} | {in_points(interval(taus), '+')} | {len(taus)} |" for rule, taus in named.items()]
    return [*lines, ""]


def learnt_section(truth: Truth, learnt: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was chosen under each budget, against all others of no more cost."""
    if not learnt:
        return ["## What is learnt", "", "Not run yet.", ""]
    lines = [
        "## What is learnt",
        "",
        "| budget | chosen, by seed | alike (Jaccard) | accuracy of the choice, trained from the start | better than |",
        "|---|---|---|---|---|",
    ]
    total = max(truth.costs.values())
    for budget in sorted({row["budget"] for row in learnt}):
        choices = [stages_of(row["chosen"]) for row in learnt if row["budget"] == budget]
        means, others = [truth.mean(stages) for stages in choices], truth.within(budget * total)
        below = [fmean(truth.mean(other) < mean for other in others if other != stages) if len(others) > 1 else 1.0
                 for stages, mean in zip(choices, means, strict=True)]  # fmt: skip
        lines.append(
            f"| {budget:g} | {'; '.join(map(shown, choices))} | {jaccard(choices):.2f} | {fmean(means):.2f} | "
            f"{fmean(below):.0%} of the {len(others) - 1} others of no more cost |"
        )
    return [*lines, "", f"LIGHT's choice, stage 4, reaches {truth.mean(LIGHT):.2f}.", ""]


def jaccard(choices: Sequence[Stages]) -> float:
    """The mean over pairs of what both open of what either does; 1 for pairs that open nothing."""
    pairs = list(combinations(choices, 2))
    return fmean(jaccard_score(*pair, zero_division=1.0) for pair in pairs) if pairs else 1.0


def picture(truth: Truth, learnt: Sequence[Mapping[str, Any]]) -> Figure:
    """Accuracy with intervals against cost; LIGHT's choice and those learnt stand out."""
    figure = new_figure(7.6, 4.6)
    axes = figure.subplots()
    chosen = {stages_of(row["chosen"]) for row in learnt}
    kinds = {"learnt": "C3", "LIGHT's": "C1", "other": "C0"}
    for kind, colour in kinds.items():
        some = [s for s in truth.accuracies if kind == _kind(s, chosen)]
        scores = [interval([truth.accuracies[stages][seed] for seed in truth.seeds]) for stages in some]
        axes.errorbar(
            [truth.costs[stages] / 1e6 for stages in some], [score.mean for score in scores],
            yerr=[score.high - score.mean for score in scores], fmt="o", color=colour, capsize=3, lw=1, label=kind,
        )  # fmt: skip
        for stages, score in zip(some, scores, strict=True):
            axes.annotate(shown(stages), (truth.costs[stages] / 1e6, score.mean), (5, 4), textcoords="offset points",
                          fontsize=8, color=colour)  # fmt: skip
    axes.set(xlabel="million multiply-adds of an image", ylabel="accuracy, %, with 95 % interval")
    axes.legend(frameon=False, title="stages with attention")
    axes.grid(alpha=0.3)
    return figure


def _kind(stages: Stages, chosen: set[Stages]) -> str:
    return "learnt" if stages in chosen else "LIGHT's" if stages == LIGHT else "other"


INTRODUCTION = """# Where attention is needed, measured

The network of `recipes/placement/imagenette.yaml`: four stages of one block each, on Imagenette's photographs at 64
pixels, in which nothing mixes tokens but gated attention, where it is open. How this is made is in
[Where attention is needed](placement.md); `python -m tools.placements` writes this page from the rows under
`results/placement`. Intervals are of 95 % over seeds.
"""


def _rows(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text()) if path.is_file() else []


def main(arguments: list[str] | None = None) -> None:
    """The page and its picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--add", type=Path, nargs="+", default=[], metavar="RUN", help="finished runs of contagg place")
    parser.add_argument("--results", type=Path, default=ROOT / "results/placement")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    given = parser.parse_args(arguments)
    learnt = _rows(given.results / "learnt.json")
    for row in map(learnt_row, given.add):
        learnt = [each for each in learnt if (each["seed"], each["budget"]) != (row["seed"], row["budget"])] + [row]
    if given.add:
        learnt.sort(key=lambda row: (row["budget"], row["seed"]))
        write_output(given.results / "learnt.json", json.dumps(learnt, indent=1).encode())
    truth, lines = Truth.read(given.results / "truth/runs.json"), [INTRODUCTION]
    lines += truth_section(truth)
    if truth.accuracies and len(truth.seeds) > 1:
        publish(given.docs / "pictures/placement_truth.png", picture(truth, learnt))
        lines += rules_section(truth, learnt, _rows(given.results / "rivals.json")) + learnt_section(truth, learnt)
    write_output(given.docs / "placement-results.md", ("\n".join(lines).rstrip() + "\n").encode())
    print(given.docs / "placement-results.md")


if __name__ == "__main__":
    main()
