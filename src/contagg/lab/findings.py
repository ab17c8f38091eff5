"""What the runs of a comparison say: each arm's score, its difference from the first arm, and whether that is real."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from contagg.errors import UserError, nearest
from contagg.lab.arms import Arms
from contagg.lab.costs import measured
from contagg.lab.intervals import LEVEL, Pooled, holm, interval, paired
from contagg.lab.rows import Row, RunsFile
from contagg.lab.sizes import Size

REAL, LIKELY, NOISE = "real", "likely", "noise"
"""The pairs of an arm's own runs show the difference; only one noise for all arms does; neither does."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """An arm: its score at the last epoch, its difference from the first arm, its costs.

    Scores and differences are in the metric's own unit (an accuracy is a fraction). `p_holm` is of the paired t test,
    `p_pooled_holm` by one noise for all arms; both are adjusted for the number of arms. NaN is what is not known.
    """

    arm: str
    seeds: int
    mean: float
    low: float
    high: float
    best_epoch_mean: float
    difference: float = math.nan
    difference_low: float = math.nan
    difference_high: float = math.nan
    p_holm: float = math.nan
    p_pooled_holm: float = math.nan
    verdict: str = ""
    parameters: int
    multiply_adds: int
    inference_ms: float = math.nan
    train_ms: float = math.nan
    inference_mb: float = math.nan
    train_mb: float = math.nan
    run_seconds: float = math.nan


def no_metric(metric: str, known: Iterable[str]) -> UserError:
    """The error of runs that have these metrics, and not the one that was asked for."""
    names = list(known)
    return UserError(f"the runs have no metric {metric!r}.{nearest(metric, names)} They have {', '.join(names)}")


@dataclass(frozen=True)
class Curve:
    """A run's metric: the epochs that have it, and its values there, not all of which need be finite.

    COCO's -1, which is no precision but says that there was nothing to find, is NaN.
    """

    epochs: tuple[int, ...]
    values: tuple[float, ...]

    @classmethod
    def of(cls, row: Row, metric: str) -> "Curve":
        """UserError where the run does not have the metric; gives the nearest."""
        known = row["metrics"]
        if metric not in known:
            raise no_metric(metric, known)
        pairs = [pair for pair in zip(known["epoch"], known[metric], strict=True) if pair[1] is not None]
        if not pairs:
            run = f"the run of {row['arm']!r} with seed {row['seed']}"
            raise UserError(f"{run} has no value of the metric {metric!r}: all its epochs leave it empty")
        values = (float(value) for _, value in pairs)
        if is_share(metric):
            values = (math.nan if value < 0 else value for value in values)
        return cls(tuple(int(epoch) for epoch, _ in pairs), tuple(values))

    @property
    def holes(self) -> list[int]:
        """The epochs whose value is no finite number."""
        return [epoch for epoch, value in zip(self.epochs, self.values, strict=True) if not math.isfinite(value)]

    @property
    def ends_in_hole(self) -> bool:
        """Whether the last epoch's value is no finite number."""
        return not math.isfinite(self.values[-1])


class Findings:
    """Of the arms' runs that there are.

    Args:
        metric: A column of the runs' metrics; None takes what their task is best in.
        seeds: Those that were asked for.

    Attributes:
        curves: Each arm's that has a run, by seed.
        missing: Arms without a run.
        diverged: Arms one of whose runs ends with a metric that is no finite number, so that no mean says anything of
            them, and the seeds of these runs.
        holes: Of arms with such an epoch, by seed, all of these epochs.
        first: The arm that was to be compared with, whether or not it has a mean.
        lines: One for each other arm; the first is what the others are compared with.
        pooled: One noise for all arms; None where it says no more than pairs do.
        about: Of what times were measured on; empty where none were.

    Raises:
        UserError: no run, or none has the metric, or no arm is left that has not diverged; runs of an arm whose epochs
            differ.
    """

    def __init__(
        self, arms: Arms, file: RunsFile, sizes: Mapping[str, Size], metric: str | None, seeds: Iterable[int]
    ) -> None:
        asked, known = set(seeds), file.of_arms(arms.arms, {}, {})
        rows = {arm.name: {seed: row for (name, seed), row in known.items() if name == arm.name} for arm in arms.arms}
        self._rows = {name: {s: row for s, row in own.items() if s in asked} for name, own in rows.items()}
        self.missing = [name for name, own in self._rows.items() if not own]
        names = [name for name in self._rows if name not in self.missing]
        if not names:
            raise UserError(f"{file.path} holds no run of these arms yet: nothing to report")
        self.metric = metric or str(next(iter(self._rows[names[0]].values())).get("monitor", ""))
        curves = {n: {s: Curve.of(row, self.metric) for s, row in self._rows[n].items()} for n in names}
        self.first = arms.arms[0].name
        holes = {n: {s: curve.holes for s, curve in own.items() if curve.holes} for n, own in curves.items()}
        self.holes = {name: own for name, own in holes.items() if own}
        self.diverged = {n: ends for n in names if (ends := [s for s, c in curves[n].items() if c.ends_in_hole])}
        self.curves = {name: curves[name] for name in names if name not in self.diverged}
        if not self.curves:
            raise UserError(
                f"{self.metric}: each arm has a run whose last epoch gives no finite number, so none has a mean: "
                f"{seeds_told(self.diverged)}{nothing_to_find(self.metric)}"
            )
        _check_epochs(self.curves, file)
        self.last = {name: {seed: curve.values[-1] for seed, curve in own.items()} for name, own in self.curves.items()}
        costs = file.read()["costs"]
        self._costs = measured(costs, arms.having(self.last)) or {}
        self.about: Mapping[str, Any] = costs["about"] if self._costs else {}
        self.pooled = Pooled.of(list(self.last.values()))
        self.lines = self._lines(sizes)

    def _lines(self, sizes: Mapping[str, Size]) -> list[Line]:
        reference, *others = self.last
        found = [paired(self.last[name], self.last[reference]) for name in others]
        own = holm([difference.p for difference in found])
        pooled = self.pooled
        alike = holm([pooled.probability(d.interval.mean, d.seeds) if pooled else math.nan for d in found])
        lines = [self._line(reference, sizes[reference])]
        for name, difference, p, p_pooled in zip(others, found, own, alike, strict=True):
            told = {
                "difference": difference.interval.mean,
                "difference_low": difference.interval.low,
                "difference_high": difference.interval.high,
                "p_holm": p,
                "p_pooled_holm": p_pooled,
                "verdict": verdict(p, p_pooled),
            }
            lines.append(self._line(name, sizes[name], **told))
        return lines

    def _line(self, name: str, size: Size, **difference: Any) -> Line:
        score = interval(list(self.last[name].values()))
        best = min if "loss" in self.metric else max
        seconds = [row["seconds"] for row in self._rows[name].values() if row.get("seconds")]
        costs: dict[str, Any] = asdict(self._costs[name]) if name in self._costs else {}
        return Line(
            arm=name,
            seeds=len(self.last[name]),
            mean=score.mean,
            low=score.low,
            high=score.high,
            best_epoch_mean=fmean(best(filter(math.isfinite, curve.values)) for curve in self.curves[name].values()),
            **asdict(size),
            **costs,
            **difference,
            run_seconds=fmean(seconds) if seconds else math.nan,
        )


def _check_epochs(curves: Mapping[str, Mapping[int, Curve]], file: RunsFile) -> None:
    for name, own in curves.items():
        (first, one), *others = own.items()
        for seed, other in others:
            if other.epochs != one.epochs:
                raise UserError(
                    f"{file.path}: the runs of {name!r} with seeds {first} and {seed} are not of the same epochs"
                )


def sizes_told(arms: Arms, file: RunsFile) -> dict[str, Size] | None:
    """What rows say of the size of each arm that has any; None where one has no row that does."""
    rows = file.of_arms(arms.arms, {}, {})
    found = {
        row["arm"]: Size(parameters=row["parameters"], multiply_adds=row["multiply_adds"])
        for row in rows.values()
        if type(row.get("parameters")) is int and type(row.get("multiply_adds")) is int
    }
    return found if found.keys() == {name for name, _ in rows} else None


def verdict(p: float, p_pooled: float) -> str:
    """REAL, LIKELY or NOISE; nothing where neither p is known.

    >>> verdict(0.2, 0.01), verdict(0.01, 0.2), verdict(0.2, 0.2), verdict(math.nan, math.nan)
    ('likely', 'real', 'noise', '')
    """
    if math.isnan(p) and math.isnan(p_pooled):
        return ""
    return REAL if p <= 1 - LEVEL else LIKELY if p_pooled <= 1 - LEVEL else NOISE


def seeds_told(seeds: Mapping[str, Iterable[int]]) -> str:
    """Arms and some of their seeds.

    >>> seeds_told({"dwconv3": [0, 2], "attention": [1]})
    'dwconv3 (seeds 0, 2); attention (seed 1)'
    """
    each = {name: list(map(str, own)) for name, own in seeds.items()}
    return "; ".join(f"{name} (seed{'s' * (len(own) > 1)} {', '.join(own)})" for name, own in each.items())


def nothing_to_find(metric: str) -> str:
    """Why an average precision may be no number."""
    return ". COCO has no number where validation images hold no such object" * ("_ap" in metric)


def is_share(metric: str) -> bool:
    """Whether a metric is a fraction that people read in per cent.

    >>> is_share("accuracy_knn10"), is_share("box_ap"), is_share("validation_loss")
    (True, True, False)
    """
    return metric.startswith("accuracy") or "_ap" in metric
