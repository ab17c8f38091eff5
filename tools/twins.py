"""`python -m tools.twins`: the paper's tables beside ours, as docs/results.md and its pictures.

tools/twins.yaml says which comparison stands for which table and what the paper has for each arm; the rows of
`contagg compare` under results/ say what was found. Nothing is trained and no data are needed: where there is no row
yet, the page says so and gives the command.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from contagg.errors import UserError
from contagg.figures import new_figure
from contagg.files import write_output
from contagg.lab.findings import Curve, is_share
from contagg.lab.intervals import LEVEL, Interval, Pooled, holm, interval, paired
from contagg.lab.rows import Row
from contagg.yaml_file import read_yaml
from tools.pictures import publish

ROOT = Path(__file__).parent.parent
TWINS = Path(__file__).with_suffix(".yaml")
INTRODUCTION = """# The paper's tables, and ours beside them

ImageNet and COCO cannot be had on the machine that this was made on, so each table has a twin: networks of about a
million parameters, on real photographs, in minutes on a CPU. A twin cannot confirm the paper's figures. It can show
whether their order holds at that size.

Each mean is of the last epoch, with its 95 % interval over seeds: by one noise for all arms where there are three or
more, by the arm's or the pair's own seeds otherwise. Two rows are called different where a paired test by that noise
says so at 5 %, adjusted for the number of pairs (Holm). `python -m tools.twins` makes this page from the rows under
`results/`, which hold each run's keys, seed, data, figures, commit and device. What the paper does not have comes last.
"""


@dataclass(frozen=True)
class Entry:
    """A row of the paper's table: what the paper calls it, our arm, the paper's figure, if it is in the paper."""

    name: str
    arm: str
    paper: float | None = None


@dataclass(frozen=True)
class Twin:
    """A table of the paper and the comparison that stands for it, or one that goes beyond. See tools/twins.yaml."""

    name: str
    title: str
    folder: str
    metric: str
    here: str
    command: str
    rows: Sequence[Entry]
    paper_says: str = ""
    curves: bool = False

    @property
    def scale(self) -> float:
        """To the paper's per cent."""
        return 100 if is_share(self.metric) else 1


@dataclass(frozen=True)
class Found:
    """What the runs of a twin say: for each arm, by seed, its curve."""

    twin: Twin
    curves: Mapping[str, Mapping[int, Curve]]

    def last(self, arm: str) -> dict[int, float]:
        """By seed, at the last epoch, in per cent where the paper's are."""
        return {seed: self.twin.scale * curve.values[-1] for seed, curve in self.curves.get(arm, {}).items()}

    @property
    def entries(self) -> list[Entry]:
        """Those with a run."""
        return [entry for entry in self.twin.rows if self.curves.get(entry.arm)]

    @cached_property
    def noise(self) -> Pooled | None:
        """One for all arms, where there are three or more."""
        return Pooled.of([self.last(entry.arm) for entry in self.entries])

    @property
    def common_seeds(self) -> list[int]:
        """Of all arms that have a run."""
        return sorted(set.intersection(*(set(self.last(entry.arm)) for entry in self.entries)))

    def difference(self, entry: Entry) -> Interval:
        """From the table's first arm."""
        own = paired(self.last(entry.arm), self.last(self.twin.rows[0].arm))
        return self.noise.difference(own.interval.mean, own.seeds) if self.noise else own.interval


@dataclass(frozen=True)
class Order:
    """How many pairs of rows that the paper orders are ordered alike here, the other way, or not told apart."""

    alike: int
    reversed: int
    undecided: int

    def __str__(self) -> str:
        pairs = self.alike + self.reversed + self.undecided
        if pairs == 1:
            words = {"alike": "holds", "reversed": "is the other way round", "undecided": "is within the noise"}
            return f"The paper's order {next(words[kind] for kind in words if getattr(self, kind))} here."
        return (
            f"Of the {pairs} pairs that the paper orders, {self.alike} are ordered alike here, {self.reversed} the "
            f"other way round, and {self.undecided} are within the noise."
        )


def read_twins(path: Path = TWINS) -> list[Twin]:
    """All of the file."""
    entries = read_yaml(path).items()
    return [Twin(name=name, **entry | {"rows": [Entry(*row) for row in entry["rows"]]}) for name, entry in entries]


def rows_of(path: Path) -> list[Row]:
    """Of a comparison's file; none where there is no file."""
    return json.loads(path.read_text())["rows"] if path.is_file() else []


def find(twin: Twin, results: Path) -> Found:
    """Its runs, of those that are there."""
    curves: dict[str, dict[int, Curve]] = {}
    for row in rows_of(results / twin.folder / "runs.json"):
        curves.setdefault(row["arm"], {})[row["seed"]] = Curve.of(row, twin.metric)
    return Found(twin, curves)


def chances(found: Found, pairs: Sequence[tuple[Entry, Entry]]) -> list[float]:
    """Each pair's probability of as large a difference by chance, adjusted for how many pairs there are (Holm)."""
    differences = [paired(found.last(one.arm), found.last(other.arm)) for one, other in pairs]
    noise = found.noise
    return holm([noise.probability(d.interval.mean, d.seeds) if noise else d.p for d in differences])


def order(found: Found) -> Order | None:
    """None of one seed, which allows no answer, and of what the paper does not order."""
    pairs = [pair for pair in combinations(found.entries, 2) if None not in (pair[0].paper, pair[1].paper)]
    pairs = [pair for pair in pairs if pair[0].paper != pair[1].paper]
    if not pairs or len(found.common_seeds) < 2:
        return None
    alike = opposite = 0
    for (one, other), chance in zip(pairs, chances(found, pairs), strict=True):
        if chance <= 1 - LEVEL:
            difference = paired(found.last(one.arm), found.last(other.arm)).interval.mean
            same = ((one.paper or 0) > (other.paper or 0)) == (difference > 0)
            alike, opposite = alike + same, opposite + (not same)
    return Order(alike, opposite, len(pairs) - alike - opposite)


def told_apart(found: Found) -> str:
    """Which arms differ from the first one, of a comparison that the paper does not have."""
    first, *others = found.entries
    if not others:
        return "The others have not been run yet." if found.twin.rows[1:] else "To be set beside what others report."
    if len(found.common_seeds) < 2:
        return "One seed of each says nothing about differences."
    p = chances(found, [(other, first) for other in others])
    real = [other.name for other, chance in zip(others, p, strict=True) if chance <= 1 - LEVEL]
    if not real:
        return f"None differs from {first.name} by more than the noise."
    rest = ", the others do not" * (len(real) < len(others))
    return f"By more than the noise {', '.join(real)} differ{'s' * (len(real) == 1)} from {first.name}{rest}."


def passing(curves: Mapping[int, Curve], reference: Mapping[int, Curve]) -> str:
    """The mean epoch at which an arm is as good as the reference is at its best, over seeds; how many never are."""
    seeds = sorted(curves.keys() & reference.keys())
    reached = []
    for seed in seeds:
        best, curve = max(reference[seed].values), curves[seed]
        reached.append(next((e for e, v in zip(curve.epochs, curve.values, strict=True) if v >= best), None))
    known = [epoch for epoch in reached if epoch is not None]
    if not known:
        return "never"
    return f"{fmean(known):.1f}" + (
        f" (never in {len(seeds) - len(known)} of {len(seeds)})" * (len(known) < len(seeds))
    )


def section(found: Found) -> str:
    """A twin's part of the page."""
    twin, first = found.twin, found.twin.rows[0]
    says = f"Paper: {twin.paper_says}. Here" if twin.paper_says else "Not in the paper. Here"
    lines = [f"## {twin.title}", "", f"{says}: {twin.here}.", ""]
    if not found.entries:
        return "\n".join([*lines, "Not run yet.", "", *_command(twin)])
    head = ["network", *["paper"] * bool(twin.paper_says), "here", "seeds", f"from {first.name}"]
    head += ["epochs to its best"] * twin.curves
    lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(_line(found, entry) for entry in twin.rows)]
    said = order(found) or "One seed of each says nothing about the order." if twin.paper_says else told_apart(found)
    lines += ["", str(said), "", f"![{twin.title}](pictures/twin_{twin.name}.png)", ""]
    return "\n".join([*lines, *_command(twin)])


def _line(found: Found, entry: Entry) -> str:
    """An arm's line of the table."""
    twin, first = found.twin, found.twin.rows[0]
    values, reference = found.last(entry.arm), found.last(first.arm)
    cells = [entry.name]
    if twin.paper_says:
        cells += ["" if entry.paper is None else f"{entry.paper:.1f}"]
    cells += [with_interval(interval(list(values.values()), found.noise)) if values else "no run yet", str(len(values))]
    compared = entry is not first and bool(values.keys() & reference.keys())
    cells += [with_interval(found.difference(entry), "+") if compared else ""]
    if twin.curves:
        cells += [passing(found.curves[entry.arm], found.curves[first.arm]) if compared else ""]
    return f"| {' | '.join(cells)} |"


def _command(twin: Twin) -> list[str]:
    return ["```", twin.command.replace(" --a", " \\\n  --a"), "```", ""]


def with_interval(found: Interval, sign: str = "", digits: int = 1) -> str:
    """A mean and between what it lies, where that is known."""
    mean, low, high = (f"{value:{sign}.{digits}f}" for value in (found.mean, found.low, found.high))
    return mean if math.isnan(found.low) else f"{mean} ({low} to {high})"


def picture(found: Found) -> Figure:
    """The paper's figures beside ours with intervals; of curves, by epoch with the seeds' range."""
    figure = new_figure(6.4, 4.2 if found.twin.curves else 1 + 0.45 * len(found.entries))
    (_draw_curves if found.twin.curves else _draw_scores)(found, figure.subplots())
    return figure


def _draw_curves(found: Found, axes: Axes) -> None:
    for place, entry in enumerate(found.entries):
        runs = list(found.curves[entry.arm].values())
        columns = list(zip(*(run.values for run in runs), strict=False))
        epochs, scale = runs[0].epochs[: len(columns)], found.twin.scale
        low, mean, high = ([scale * of(column) for column in columns] for of in (min, fmean, max))
        axes.fill_between(epochs, low, high, color=f"C{place}", alpha=0.2, lw=0)
        axes.plot(epochs, mean, color=f"C{place}", label=entry.name, lw=1.8)
    axes.set(xlabel="epoch", ylabel=f"{found.twin.metric.replace('_', ' ')}, %; band: all seeds")
    axes.legend(frameon=False)


def _draw_scores(found: Found, axes: Axes) -> None:
    entries, right = list(reversed(found.entries)), axes.get_yaxis_transform()
    pooled = found.noise
    for place, entry in enumerate(entries):
        score = interval(list(found.last(entry.arm).values()), pooled)
        reach = 0.0 if math.isnan(score.low) else score.high - score.mean
        axes.errorbar(score.mean, place, xerr=reach, fmt="o", color="C0", capsize=3)
        if entry.paper is not None:
            axes.text(1.01, place, f"paper {entry.paper:.1f}", transform=right, va="center", fontsize=9)
    axes.set_yticks(range(len(entries)), [entry.name for entry in entries])
    axes.set_ylim(-0.6, len(entries) - 0.4)
    noise = "interval by one noise for all" if pooled else "interval"
    axes.set_xlabel(f"{found.twin.metric.replace('_', ' ')} here, %, with {LEVEL:.0%} {noise}")
    axes.grid(axis="x", alpha=0.3)


def main(arguments: list[str] | None = None) -> None:
    """The page and its pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    given = parser.parse_args(arguments)
    twins = read_twins()
    if not given.results.is_dir():
        raise UserError(f"--results {given.results} is no folder")
    every = [find(twin, given.results) for twin in twins]
    for found in every:
        if found.entries:
            publish(given.docs / "pictures" / f"twin_{found.twin.name}.png", picture(found))
    page = "\n".join([INTRODUCTION, *map(section, every)])
    write_output(given.docs / "results.md", (page.rstrip() + "\n").encode())
    print(given.docs / "results.md")


if __name__ == "__main__":
    main()
