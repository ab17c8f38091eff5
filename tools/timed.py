"""What tools that time networks in rounds share: their arguments, and their rows as a table and with how they came."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from contagg.benchmark.bench import csv_of
from contagg.files import write_output


def read_arguments(
    arguments: Sequence[str] | None, told: str | None, rounds: int, **choices: Sequence[str]
) -> argparse.Namespace:
    """`folder`, `rounds` and some of each of the `choices`, by default all; torch takes the threads that are given."""
    parser = argparse.ArgumentParser(description=told, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=2)
    for name, every in choices.items():
        parser.add_argument(f"--{name}", nargs="+", choices=every, default=every)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    return given


def write_rows(folder: Path, name: str, rows: Sequence[Any], about: Mapping[str, Any]) -> None:
    """Dataclasses as name.csv, and as name.json together with `about`."""
    content = {**about, "command": f"python -m tools.{name}", "rows": [asdict(row) for row in rows]}
    write_output(folder / f"{name}.csv", csv_of(rows))
    write_output(folder / f"{name}.json", (json.dumps(content, indent=1) + "\n").encode())
