"""`python -m tools.laboratory`: which mixers differ under one recipe, as docs/laboratory-results.md and its picture.

Reads results/laboratory: runs.json, the rows of `contagg compare`, and compare.json and compare.png, which the same
command writes with `--report`.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from matplotlib.figure import Figure
from scipy.stats import t as student

from contagg.affinity import Site, build_affinity
from contagg.errors import UserError
from contagg.figures import BLUE, GREY, VERMILION, new_figure, plain_axes
from contagg.files import write_output
from contagg.lab.findings import Curve
from contagg.lab.intervals import LEVEL, Pooled, paired
from contagg.nn.aggregation import CHANNEL_MIXING
from tools.comparisons import with_interval
from tools.pictures import publish

ROOT = Path(__file__).parent.parent
SITE = Site(channels=128, grid=(8, 8))
GROUPS = {
    (False, True): "one A for all images, near tokens",
    (False, False): "one A for all images, all tokens",
    (True, True): "A follows the image, near tokens",
    (True, False): "A follows the image, all tokens",
}
"""Of whether A is dynamic, and whether something bounds how far it gathers from."""

INTRODUCTION = """# All mixers under one recipe

{count} arms of `recipes/laboratory/mixers.yaml`, {seeds} seeds each: Imagenette at 64 pixels, 4 epochs, a network of
0.4M to 0.7M parameters with one block in each of four stages, in which nothing but the word's own A mixes tokens. It
asks what a mixer is worth at this size and in this time: not what it is worth on ImageNet, nor which is best.
"""

KEY = """*Real* would be what an arm's own pairs of seeds show, *likely* is what one noise for all arms shows, and
*noise* is neither, all adjusted for the number of arms."""
TIME = "![Accuracy of each mixer against the time of a batch](pictures/laboratory_time.png)"
NOTES = {
    "outlook3": "Why `outlook3` comes last: the rows of its A sum to 9, as VOLO's fold has it, and nothing here\n"
    "normalizes what follows. Divided by 9 it reaches 57.2 with the first seed.\n",
}

OUTRO = """```
{command}
```

That, and then `python -m tools.laboratory`, makes this page of the rows in `results/laboratory/runs.json`, each of
which has its commit and device. Without `--report` the same command makes the runs.
"""


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        arms: The lines of compare.json, scores as fractions, the best first.
        scores: In per cent at the last epoch, of each arm by seed.
    """

    report: Mapping[str, Any]
    arms: Sequence[Mapping[str, Any]]
    scores: Mapping[str, Mapping[int, float]]

    @classmethod
    def read(cls, folder: Path) -> "Comparison":
        """UserError where a file is missing."""
        try:
            report, file = (json.loads((folder / name).read_text()) for name in ("compare.json", "runs.json"))
        except OSError as error:
            raise UserError(f"{error}: run contagg compare with --report first") from error
        names, scores = {line["arm"] for line in report["arms"]}, {}
        for row in file["rows"]:
            if row["arm"] in names:
                scores.setdefault(row["arm"], {})[row["seed"]] = 100 * Curve.of(row, report["metric"]).values[-1]
        return cls(report, sorted(report["arms"], key=lambda line: -line["mean"]), scores)

    @property
    def first(self) -> str:
        """What the others are compared with."""
        return str(self.report["arms"][0]["arm"])

    @property
    def noise(self) -> Pooled:
        """Of one run, in points, if all arms waver alike."""
        found = self.report["pooled"]
        return Pooled(100 * found["deviation"], found["freedom"])

    def apart(self, comparisons: int) -> float:
        """Half of the intervals, in points, of so many differences that hold at once (Bonferroni)."""
        tail = (1 - LEVEL) / 2 / comparisons
        error = self.noise.deviation * math.sqrt(2 / len(self.scores[self.first]))
        return float(student.ppf(1 - tail, self.noise.freedom)) * error

    @property
    def least(self) -> float:
        """The difference, in points, from which any single arm of these would be told from the first."""
        return self.apart(len(self.arms) - 1)


def groups(scores: Mapping[str, Mapping[int, float]]) -> dict[str, dict[str, Mapping[int, float]]]:
    """Arms that are one registered word, by kind of A. In none: mixtures, arrangements, what mixes channels too."""
    found: dict[str, dict[str, Mapping[int, float]]] = {name: {} for name in GROUPS.values()}
    for arm, own in scores.items():
        if "+" in arm or "," in arm or arm in ("identity", *CHANNEL_MIXING):
            continue
        affinity = build_affinity(arm, SITE)
        found[GROUPS[affinity.dynamic, affinity.local is not None]][arm] = own
    return found


def typical(arms: Mapping[str, Mapping[int, float]]) -> dict[int, float]:
    """The median over arms, by seed."""
    seeds = set.intersection(*(set(own) for own in arms.values()))
    return {seed: median(own[seed] for own in arms.values()) for seed in sorted(seeds)}


def page(found: Comparison) -> str:
    """The text."""
    seeds = len(found.scores[found.first])
    lines = [INTRODUCTION.format(count=len(found.arms), seeds=seeds), *_said(found), *_groups_table(found)]
    lines += [
        "![Accuracy of each mixer, its seeds and interval](pictures/laboratory.png)",
        "",
        TIME,
        "",
        "## Each word",
        "",
        KEY,
        "",
    ]
    costs = found.report["costs"]
    timed = bool(costs)
    if timed:
        lines += [f"Milliseconds are of a batch of {costs['batch']} on {costs['device']}, one thread.", ""]
    head = ["word", "accuracy, %", f"from `{found.first}`, points", "", "parameters, M", "multiply-adds, M"]
    head += ["inference, ms", "training step, ms"] * timed
    lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    lines += [f"| {' | '.join(_cells(found, line, timed))} |" for line in found.arms]
    lines += ["", *(note for arm, note in NOTES.items() if arm in found.scores)]
    return "\n".join([*lines, OUTRO.format(command=found.report["reported_with"]["command"])])


def _said(found: Comparison) -> list[str]:
    lines, others = [], [line for line in found.arms if line["arm"] != found.first]
    below = [line for line in others if line["verdict"] != "noise"]
    named = ", ".join(f"`{line['arm']}` ({100 * line['difference']:+.1f})" for line in below) or "none"
    lines.append(
        f"- **What stands out.** Of {len(others)} arms these differ from `{found.first}`, by one noise for all arms, "
        f"adjusted for their number (Holm): {named}."
    )
    pairs = [line["arm"] for line in others if line["verdict"] == "real"]
    lines.append(
        f"- By an arm's own pairs of seeds alone these can be told: {', '.join(f'`{arm}`' for arm in pairs) or 'none'}."
    )
    lines.append(
        f"- **The noise.** One run wavers by {found.noise.deviation:.2f} points (standard deviation). So a difference "
        f"has an interval of ±{found.apart(1):.1f} points, and of ±{found.least:.1f} where all {len(others)} are to "
        "hold at once: what is less could not be seen here, and is not denied either."
    )
    return lines


def _groups_table(found: Comparison) -> list[str]:
    kinds = groups(found.scores)
    reference, *others = (typical(arms) for arms in kinds.values())
    lines = [
        "- **By kind of A**, the median word of each kind; the intervals are over seeds, paired.",
        "",
        "| A | words | median word, % | from the first row, points |",
        "|---|---|---|---|",
    ]
    differences = ["", *(with_interval(paired(own, reference).interval, "+") for own in others)]
    for (kind, arms), own, difference in zip(kinds.items(), [reference, *others], differences, strict=True):
        lines.append(f"| {kind} | {len(arms)} | {fmean(own.values()):.1f} | {difference} |")
    return [*lines, ""]


def _cells(found: Comparison, line: Mapping[str, Any], timed: bool) -> list[str]:
    difference = "" if line["difference"] is None else f"{100 * line['difference']:+.1f}"
    cells = [f"`{line['arm']}`", f"{100 * line['mean']:.1f}", difference, line["verdict"]]
    cells += [f"{line['parameters'] / 1e6:.2f}", f"{line['multiply_adds'] / 1e6:.1f}"]
    return cells + [f"{line[key]:.0f}" for key in ("inference_ms", "train_ms") if timed]


def picture(found: Comparison) -> Figure:
    """A row an arm, the best on top: its seeds, its mean with one noise for all, and what the first arm spans."""
    arms = found.arms[::-1]
    figure = new_figure(7.6, 0.21 * len(arms) + 1)
    axes = figure.subplots()
    start = fmean(found.scores[found.first].values())
    axes.axvspan(start - found.least, start + found.least, color="#eeeeee", lw=0)
    for place, line in enumerate(arms):
        own = list(found.scores[line["arm"]].values())
        score = found.noise.around(own)
        colour = "black" if line["arm"] == found.first else _colour(line)
        axes.plot(own, [place] * len(own), "|", color=colour, ms=6, alpha=0.6)
        axes.errorbar(score.mean, place, xerr=score.high - score.mean, fmt="o", color=colour, ms=4.5, lw=1.4)
    axes.set_yticks(
        range(len(arms)), [line["arm"].replace("dwconv5, dwconv5, dwconv5", "dwconv5 x 3") for line in arms]
    )
    axes.tick_params(axis="y", labelsize=8, length=0)
    axes.set_ylim(-0.7, len(arms) - 0.3)
    plain_axes(
        axes,
        f"accuracy, %: mean with {LEVEL:.0%} interval by one noise for all, and each seed",
        title=f"blue: below {found.first}; orange: above; grey band: none could be told from it",
    )
    axes.grid(axis="y", visible=False)
    return figure


def _colour(line: Mapping[str, Any]) -> str:
    if line["verdict"] == "noise":
        return GREY
    return VERMILION if line["difference"] > 0 else BLUE


def main(arguments: list[str] | None = None) -> None:
    """The page and its picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "results/laboratory")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    given = parser.parse_args(arguments)
    found = Comparison.read(given.results)
    publish(given.docs / "pictures/laboratory.png", picture(found))
    publish(given.docs / "pictures/laboratory_time.png", source=given.results / "compare.png")
    write_output(given.docs / "laboratory-results.md", page(found).encode())
    print(given.docs / "laboratory-results.md")


if __name__ == "__main__":
    main()
