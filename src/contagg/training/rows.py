"""A run's `metrics.csv`, one row per epoch: written, and read back. Needs no torch."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from contagg.errors import UserError, nearest
from contagg.files import write_atomically

METRICS = "metrics.csv"

Row = dict[str, float | int]
Axis = Literal["epoch", "step"]
Columns = dict[str, list[tuple[int, float]]]
"""A metric's name -> (epoch or step, value) of the epochs that have it."""

_NOT_CURVES = ("epoch", "step")


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write rows as CSV; columns in the order in which they first appear."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def read_metrics(folder: str | Path, axis: Axis = "epoch") -> Columns:
    """The columns of a run's metrics. UserError if there is no run or no epoch."""
    path = Path(folder) / METRICS
    if not path.is_file():
        raise UserError(f"{folder} is no run folder: it has no {path.name}")
    columns: Columns = {}
    try:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if name not in _NOT_CURVES and value:
                        columns.setdefault(name, []).append((int(row[axis]), float(value)))
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{path} is no table of metrics: {error}") from error
    if not columns:
        raise UserError(f"{path} holds no epoch yet")
    return columns


def metric_of(folders: Sequence[str], metric: str, axis: Axis = "epoch") -> dict[str, list[tuple[int, float]]]:
    """One metric of several runs, each by its folder's name, or by its path where two have one name.

    Raises:
        UserError: a run has no such metric; names the nearest.
    """
    runs = {}
    for folder in folders:
        columns = read_metrics(folder, axis)
        if metric not in columns:
            raise UserError(f"{folder} has no metric {metric!r}.{nearest(metric, columns)} It has {', '.join(columns)}")
        name = Path(folder).resolve().name
        runs[name if name not in runs else str(folder)] = columns[metric]
    return runs
