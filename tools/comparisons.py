"""What runs of `contagg compare` say of a table of the paper: means, intervals, which pairs differ by more than noise.

tools/twins.yaml says which comparison stands for which table and what the paper has for each arm.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from contagg.errors import UserError
from contagg.lab.checking import checked_content
from contagg.lab.findings import Curve, is_share
from contagg.lab.intervals import LEVEL, Interval, Pooled, holm, paired
from contagg.lab.rows import Row
from contagg.yaml_file import read_yaml

TWINS = Path(__file__).with_name("twins.yaml")


@dataclass(frozen=True)
class Entry:
    """A row of the paper's table: what the paper calls it, our arm, the paper's figure, if it is in the paper."""

    name: str
    arm: str
    paper: float | None = None


@dataclass(frozen=True)
class Twin:
    """A table of the paper and the comparison that stands for it, or one that goes beyond. See tools/twins.yaml.

    `others` are lines of its picture that others have reported, by what they are called.
    """

    name: str
    title: str
    folder: str
    metric: str
    here: str
    command: str
    rows: Sequence[Entry]
    paper_says: str = ""
    curves: bool = False
    note: str = ""
    others: Mapping[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The metric in the field's words."""
        return {"box_ap": "box AP", "accuracy_knn10": "10-NN accuracy"}.get(self.metric, self.metric.replace("_", " "))

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

    @property
    def drawn(self) -> bool:
        """Whether there is something to compare: two arms, or a curve."""
        return len(self.entries) > 1 or (self.twin.curves and bool(self.entries))

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


def content_of(path: Path) -> dict[str, Any]:
    """Of a comparison's file, or one without rows and costs. UserError for one that is no such file."""
    return checked_content(path) if path.exists() else {"rows": [], "costs": {}}


def rows_of(path: Path) -> list[Row]:
    """As `content_of`, the rows alone."""
    return content_of(path)["rows"]


def find(twin: Twin, results: Path) -> Found:
    """Its runs, of those that are there. UserError where they cannot stand in one table, see `_check_alike`."""
    path, arms = results / twin.folder / "runs.json", {entry.arm for entry in twin.rows}
    rows = [row for row in rows_of(path) if row["arm"] in arms]
    curves: dict[str, dict[int, Curve]] = {}
    for row in rows:
        # Of two the first, as `contagg compare` takes them.
        curves.setdefault(row["arm"], {}).setdefault(row["seed"], Curve.of(row, twin.metric))
    _check_alike(rows, twin, path)
    return Found(twin, curves)


def _check_alike(rows: Sequence[Row], twin: Twin, path: Path) -> None:
    """UserError unless all runs end with a number, at one epoch, of the same data, and each arm's of the same keys."""
    arms: dict[str, Row] = {}
    for row in rows:
        where, first = f"{path}: the run of {row['arm']!r} with seed {row['seed']}", arms.setdefault(row["arm"], row)
        curve, last = Curve.of(row, twin.metric), row["metrics"]["epoch"][-1]
        if curve.epochs[-1] != last or curve.ends_in_hole:
            raise UserError(f"{where} has no {twin.metric} at its last epoch, {last}")
        if last != (expected := rows[0]["metrics"]["epoch"][-1]):
            raise UserError(f"{where} ends at epoch {last}, others at {expected}")
        if row["data"] != rows[0]["data"]:
            raise UserError(f"{where} is of other data than that of {rows[0]['arm']!r} with seed {rows[0]['seed']}")
        if row["changes"] != first["changes"]:
            raise UserError(f"{where} has other keys than that with seed {first['seed']}")


def chances(found: Found, pairs: Sequence[tuple[Entry, Entry]]) -> list[float]:
    """Each pair's probability of as large a difference by chance, adjusted for how many pairs there are (Holm)."""
    differences = [paired(found.last(one.arm), found.last(other.arm)) for one, other in pairs]
    noise = found.noise
    return holm([noise.probability(d.interval.mean, d.seeds) if noise else d.p for d in differences])


def too_few(found: Found) -> str:
    """Why the runs that there are say nothing about differences; empty if they do."""
    if len(found.entries) < 2:
        return "The others have not been run yet."
    if len(found.common_seeds) > 1:
        return ""
    if all(len(found.last(entry.arm)) == 1 for entry in found.entries):
        return "One seed of each says nothing about differences."
    return "No two seeds have been run of all of them yet, so that nothing is said about differences."


def order(found: Found) -> Order | None:
    """None where `too_few` says why there is no answer, and of what the paper does not order."""
    pairs = [pair for pair in combinations(found.entries, 2) if None not in (pair[0].paper, pair[1].paper)]
    pairs = [pair for pair in pairs if pair[0].paper != pair[1].paper]
    if not pairs or too_few(found):
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
    if not found.twin.rows[1:]:
        return "One network and one recipe: no comparison, to be read beside what others report."
    if reason := too_few(found):
        return reason
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
        best, curve = max(filter(math.isfinite, reference[seed].values)), curves[seed]
        reached.append(next((e for e, v in zip(curve.epochs, curve.values, strict=True) if v >= best), None))
    known = [epoch for epoch in reached if epoch is not None]
    if not known:
        return "never"
    return f"{fmean(known):.1f}" + (
        f" (never in {len(seeds) - len(known)} of {len(seeds)})" * (len(known) < len(seeds))
    )


def with_interval(found: Interval, sign: str = "", digits: int = 1) -> str:
    """A mean and between what it lies, where that is known."""
    mean, low, high = (f"{value:{sign}z.{digits}f}" for value in (found.mean, found.low, found.high))
    return mean if math.isnan(found.low) else f"{mean} ({low} to {high})"
