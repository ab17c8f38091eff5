"""`contagg bench speed` and `table1`: networks side by side, in every variant, in one process."""

import argparse
import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from contagg.benchmark import PAPER_IMAGES_PER_SECOND, TOP1
from contagg.benchmark.cost import (
    Spread,
    Work,
    interleaved,
    keep_freed_memory,
    multiply_adds,
    parameter_count,
    peak_bytes,
    product,
)
from contagg.benchmark.picture import accuracy_against_speed
from contagg.benchmark.variants import DTYPES, Setting, inference, training_step, variants_of
from contagg.errors import UserError, plural
from contagg.figures import save_figure
from contagg.files import as_csv, write_output
from contagg.models import create

SLOWEST_SHARE = 0.25
"""A precision whose matrix products run at less than this share of fp32's is emulated, and is left out."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network in one variant. Costs are of one image; `gemm_utilisation` is by the GEMMs of the same rounds.

    A training step counts three times the multiply-adds of a forward pass.
    """

    model: str
    variant: str
    precision: str
    parameters_millions: float
    multiply_adds_billions: float
    seconds_low: float
    seconds_median: float
    seconds_high: float
    images_per_second: float
    gemm_utilisation: float
    peak_megabytes: float
    reported_top1: float | None
    paper_images_per_second: float | None


def run(options: argparse.Namespace) -> None:
    """Measure, print the table, and write CSV, JSON and picture where asked."""
    names = list(dict.fromkeys(options.models))
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here")
    about = describe(device) | {"memory_kept": device.type == "cpu" and keep_freed_memory()}
    rows: list[Row] = []
    for precision in options.precisions:
        setting = Setting(device=device, precision=precision, batch=options.batch, size=options.size)
        reason = _emulated(setting)
        if reason:
            about[f"left_out_{precision}"] = reason
            continue
        measured, rate = bench(names, options.variants, setting, options.rounds, options.train)
        about[f"multiply_adds_per_second_{precision}"] = rate
        rows += measured
    print(table(rows, about))
    if options.out:
        write(options.out, rows, about | {"batch": options.batch, "size": options.size, "rounds": options.rounds})


def bench(
    names: list[str], variants: tuple[str, ...], setting: Setting, rounds: int, train: bool
) -> tuple[list[Row], float]:
    """A row each network and variant, and the multiply-adds a second of a plain matrix product in the same rounds."""
    works: dict[tuple[str, str], Work] = {}
    costs = {}
    for name in names:
        model = create(name).eval()
        costs[name] = parameter_count(model), multiply_adds(model, (setting.size, setting.size))
        for variant in variants_of(model, variants):
            _say(f"preparing {name}, {variant}, {setting.precision}")
            works[name, variant] = inference(model, variant, setting)
        if train:
            works[name, "training step"] = training_step(model, setting)
    reference, products = product(setting.device, DTYPES[setting.precision])
    _say(f"measuring {plural(len(works), 'variant')}, {plural(rounds, 'round')}")
    named = {"|".join(key): work for key, work in works.items()}
    seconds = interleaved({"product": reference, **named}, rounds, setting.device)
    rate = products / seconds["product"].median
    rows = []
    for (name, variant), work in works.items():
        spread, (parameters, cost) = seconds[f"{name}|{variant}"], costs[name]
        passes = 3 if variant == "training step" else 1
        rows.append(
            _row(name, variant, setting, spread, parameters, cost, passes, rate, peak_bytes(work, setting.device))
        )
    return rows, rate


def _row(
    name: str,
    variant: str,
    setting: Setting,
    seconds: Spread,
    parameters: int,
    cost: int,
    passes: int,
    rate: float,
    peak: int,
) -> Row:
    return Row(
        model=name,
        variant=variant,
        precision=setting.precision,
        parameters_millions=parameters / 1e6,
        multiply_adds_billions=cost / 1e9,
        seconds_low=seconds.low,
        seconds_median=seconds.median,
        seconds_high=seconds.high,
        images_per_second=setting.batch / seconds.median,
        gemm_utilisation=passes * cost * setting.batch / seconds.median / rate,
        peak_megabytes=peak / 1e6,
        reported_top1=TOP1.get(name) if setting.size == 224 else None,
        paper_images_per_second=PAPER_IMAGES_PER_SECOND.get(name),
    )


def table(rows: list[Row], about: dict[str, Any]) -> str:
    """Rows as text, with the device and the rate of its matrix products above."""
    lines = [f"{about['device']}, torch {about['torch']}, {about['threads']} threads"]
    for key, value in about.items():
        if key.startswith("multiply_adds_per_second"):
            lines.append(
                f"matrix products in {key.rpartition('_')[2]}: {value / 1e9:.1f} billion multiply-adds a second"
            )
        elif key.startswith("left_out"):
            lines.append(f"{key.rpartition('_')[2]} left out: {value}")
    lines.append(
        f"{'model':<30} {'variant':<15} {'in':<5} {'params M':>8} {'GMACs':>6} {'ms a batch':>10} {'quartiles':>17}"
        f" {'images/s':>9} {'of GEMM':>8} {'peak MB':>8}"
    )
    for row in rows:
        spread = f"{1000 * row.seconds_low:.0f} to {1000 * row.seconds_high:.0f}"
        lines.append(
            f"{row.model:<30} {row.variant:<15} {row.precision:<5} {row.parameters_millions:>8.2f}"
            f" {row.multiply_adds_billions:>6.2f} {1000 * row.seconds_median:>10.1f} {spread:>17}"
            f" {row.images_per_second:>9.1f} {row.gemm_utilisation:>8.0%} {row.peak_megabytes:>8.0f}"
        )
    return "\n".join(lines)


def write(folder: Path, rows: list[Row], about: dict[str, Any]) -> None:
    """bench.csv, bench.json (command, commit, device) and, where two networks' accuracies are known, bench.png."""
    write_output(folder / "bench.csv", csv_of(rows))
    write_output(folder / "bench.json", (json.dumps(about, indent=2) + "\n").encode())
    points = [asdict(row) for row in rows if row.reported_top1 is not None and row.variant != "training step"]
    if len({point["model"] for point in points}) > 1:
        save_figure(accuracy_against_speed(points, str(about["device"])), folder / "bench.png")
    _say(f"wrote {folder}")


def csv_of(rows: Sequence[Any]) -> bytes:
    """Dataclasses of one kind, at least one, under their fields' names; numbers to six digits."""
    values = ([f"{v:.6g}" if isinstance(v, float) else v for v in vars(row).values()] for row in rows)
    return as_csv([vars(rows[0]), *values])


def describe(device: torch.device) -> dict[str, Any]:
    """What figures of a machine need beside them."""
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "command": shlex.join(["contagg", *sys.argv[1:]]),
        "commit": commit_of(Path(__file__)),
        "device": named,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def _emulated(setting: Setting) -> str | None:
    rates = []
    for dtype in (torch.float32, DTYPES[setting.precision]):
        work, products = product(setting.device, dtype)
        rates.append(products / interleaved({"": work}, 3, setting.device)[""].median)
    if rates[1] < SLOWEST_SHARE * rates[0]:
        return f"this device emulates it: matrix products at {rates[1] / rates[0]:.1%} of fp32's rate"
    return None


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit_of(file: Path) -> str:
    """The commit of the checkout that the file is of. In the .venv of another project git would name that project's."""
    command = ["git", "-C", str(file.parent), "rev-parse", "HEAD", f"HEAD:./{file.name}"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no git here, and a run that took hours is not lost for it
        return "unknown"
    return result.stdout[:7] if result.returncode == 0 else "unknown"


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
