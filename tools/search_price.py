"""`python -m tools.search_price FILE --runs FOLDER --budget B --seeds S... -- KEYS`: what learning a placement costs.

For each seed `contagg fit` and `contagg place` are run with the same KEYS, and `contagg fit` once more with the chosen
network, one after the other, into FOLDER/open_S, learnt_B_S and chosen_B_S. FILE gets a row a seed: the CPU seconds of
each whole command, with what it starts. What a row has already is left out.
"""

import argparse
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from contagg.benchmark.bench import describe
from contagg.errors import UserError
from tools.json_rows import put_row, read_rows


def cpu_seconds(words: Sequence[str]) -> float:
    """Of `contagg` with these words. UserError where it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "contagg", *words], check=False)
    if done.returncode:
        raise UserError(f"contagg {' '.join(words)} ended with {done.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1)


def _key(row: Mapping[str, Any]) -> tuple[str, int]:
    return row["budget"], row["seed"]


def main(arguments: list[str] | None = None) -> None:
    """Run what has no row yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--budget", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("keys", nargs="+", metavar="KEYS")
    given = parser.parse_args(arguments)
    for seed in given.seeds:
        row = next((row for row in read_rows(given.file) if _key(row) == (given.budget, seed)), None)
        row = row or {"seed": seed, "budget": given.budget}
        for part, words in commands(given.runs, given.budget, seed, given.keys).items():
            if part not in row:
                about = describe(torch.device("cpu"))
                row |= {part: cpu_seconds(words)} | {
                    key: about[key] for key in ("device", "threads", "commit", "torch")
                }
                put_row(given.file, row, _key)
                print(f"seed {seed}: {part} {row[part]} CPU s", flush=True)


def commands(runs: Path, budget: str, seed: int, keys: Sequence[str]) -> dict[str, list[str]]:
    """Of all open, of learning the placement, and of the chosen network from the start."""
    learnt, root = runs / f"learnt_{budget}_{seed}", [*keys, "--run.seed", str(seed), "--run.folder"]
    return {
        "fit": ["fit", *root, str(runs / f"open_{seed}")],
        "place": ["place", *root, str(learnt), "--budget", budget],
        "chosen": ["fit", "-c", str(learnt / "placed.yaml"), "--run.folder", str(runs / f"chosen_{budget}_{seed}")],
    }


if __name__ == "__main__":
    main()
