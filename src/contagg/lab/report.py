"""A comparison for people: a table for the terminal, CSV, JSON and pictures."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from contagg.benchmark.bench import csv_of, describe
from contagg.errors import plural
from contagg.figures import save_figure
from contagg.files import write_output
from contagg.lab.findings import (
    LIKELY,
    NOISE,
    REAL,
    Curve,
    Findings,
    Line,
    is_share,
    nothing_to_find,
    seeds_told,
)
from contagg.lab.intervals import LEVEL
from contagg.lab.pictures import by_epoch, score_against_time
from contagg.lab.rows import Row
from contagg.output import table

_HEAD = (
    "arm seeds last-epoch best difference p-pairs p-pooled verdict params-M MMACs infer-ms train-ms infer-MB train-MB"
)


def score(row: Row, metric: str | None = None) -> str:
    """A finished run's metric at its last epoch, in words."""
    name = metric or str(row.get("monitor", ""))
    share = is_share(name)
    return f"{name.replace('_', ' ')} {_shown(Curve.of(row, name).values[-1], share)}{' %' * share}"


def text(findings: Findings) -> str:
    """What a table says, what may be said of it, and what may not."""
    return "\n".join([*_above(findings), _table(findings), *_below(findings)])


def write(findings: Findings, folder: Path) -> list[Path]:
    """compare.csv, compare.json, compare.png, epochs.png; returns them."""
    paths = [folder / name for name in ("compare.csv", "compare.json", "compare.png", "epochs.png")]
    write_output(paths[0], csv_of(findings.lines))
    content = {
        "metric": findings.metric,
        "level": LEVEL,
        "pooled": asdict(findings.pooled) if findings.pooled else None,
        "reported_with": describe(torch.device("cpu")),
        "costs": dict(findings.about),
        "missing": findings.missing,
        "diverged": findings.diverged,
        "no_finite_number": findings.holes,
        "arms": [{key: _or_null(value) for key, value in asdict(line).items()} for line in findings.lines],
    }
    write_output(paths[1], (json.dumps(content, indent=1) + "\n").encode())
    save_figure(score_against_time(findings), paths[2])
    save_figure(by_epoch(findings), paths[3])
    return paths


def _or_null(value: float | int | str) -> float | int | str | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _above(findings: Findings) -> list[str]:
    first, *others = findings.lines
    name = findings.metric.replace("_", " ") + (", %" if is_share(findings.metric) else "")
    lines = [f"{name}, at the last epoch: mean and {LEVEL:.0%} interval over seeds (Student's t)"]
    if others:
        adjusted = f"; p values, not intervals, are adjusted for {len(others)} arms (Holm)" if len(others) > 1 else ""
        lines.append(f"difference: from {first.arm!r}, paired by seed, with {LEVEL:.0%} interval{adjusted}")
    if about := findings.about:
        on = f"{about['device']}, {plural(about['threads'], 'thread')}, {about['precision']}"
        lines.append(f"times of a batch of {about['batch']} on {on}")
    return lines


def _below(findings: Findings) -> list[str]:
    first, *others = findings.lines
    lines = [f"no run yet: {'; '.join(findings.missing)}"] if findings.missing else []
    if findings.diverged:
        why = f"a run's {findings.metric.replace('_', ' ')} at the last epoch is no finite number"
        lines.append(f"without a mean, since {why}: {seeds_told(findings.diverged)}{nothing_to_find(findings.metric)}")
    if holes := {name: own for name, own in findings.holes.items() if name not in findings.diverged}:
        lines.append(f"no finite number at some epoch before the last, which is no best one: {seeds_told(holes)}")
    if findings.first != first.arm:
        lines.append(f"the first arm, {findings.first!r}, is among these: differences are from {first.arm!r} instead")
    for kind, words in (
        (REAL, "real, shown by the pairs alone"),
        (LIKELY, "likely, if runs of all arms waver alike"),
        (NOISE, f"within the noise, not told apart from {first.arm!r}"),
    ):
        if names := [line.arm for line in others if line.verdict == kind]:
            lines.append(f"{words}: {'; '.join(names)}")
    if findings.pooled:
        deviation = findings.pooled.deviation * (100 if is_share(findings.metric) else 1)
        freedom = f"{findings.pooled.freedom} degrees of freedom"
        lines.append(f"one noise for all arms: a run's standard deviation is {deviation:.3g}, {freedom}")
    if any(line.seeds < 2 for line in findings.lines):
        lines.append("an arm with one seed has no interval: two seeds are the least that says anything")
    if apart := [line.arm for line in others if math.isnan(line.difference)]:
        lines.append(f"no difference, since no seed is of both arms yet: {'; '.join(apart)}")
    severally = [line for line in others if min(line.seeds, first.seeds) > 1 and line.arm not in apart]
    if untested := [line.arm for line in severally if math.isnan(line.p_holm)]:
        why = "the difference is the same in all seeds, or fewer than two seeds are of both arms"
        lines.append(f"no test by pairs, since {why}: {'; '.join(untested)}")
    return lines


def _table(findings: Findings) -> str:
    share = is_share(findings.metric)
    rows = [[word.replace("-", " ") for word in _HEAD.split()], *(_cells(line, share) for line in findings.lines)]
    used = [column for column in zip(*rows, strict=True) if any(column[1:])]
    return table(list(zip(*used, strict=True)), left=1)


def _cells(line: Line, share: bool) -> Sequence[str]:
    return [
        line.arm,
        str(line.seeds),
        _with_interval(line.mean, line.low, line.high, share),
        _shown(line.best_epoch_mean, share),
        _with_interval(line.difference, line.difference_low, line.difference_high, share, sign="+"),
        _probability(line.p_holm),
        _probability(line.p_pooled_holm),
        line.verdict,
        f"{line.parameters / 1e6:.2f}",
        f"{line.multiply_adds / 1e6:.1f}",
        *(_number(cost) for cost in (line.inference_ms, line.train_ms, line.inference_mb, line.train_mb)),
    ]


def _shown(value: float, share: bool) -> str:
    return f"{100 * value:.2f}" if share else f"{value:.4g}"


def _with_interval(mean: float, low: float, high: float, share: bool, sign: str = "") -> str:
    if math.isnan(mean):
        return ""
    scale, form = (100, f"{sign}.2f") if share else (1, f"{sign}.4g")
    whole = f"{scale * mean:{form}}"
    return whole if math.isnan(low) else f"{whole} [{scale * low:{form}}, {scale * high:{form}}]"


def _probability(p: float) -> str:
    return "" if math.isnan(p) else "<.001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1f}" if value < 1000 else f"{value:.0f}"
