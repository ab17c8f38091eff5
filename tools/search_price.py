"""`python -m tools.search_price FILE --runs FOLDER --budget B --seeds S... -- KEYS`: what learning a placement costs.

For each seed `contagg fit` and `contagg place` are run with the same KEYS, one after the other, into FOLDER/open_S and
FOLDER/learnt_B_S. FILE gets a row a seed: the CPU seconds of each whole command, with what it starts. A seed that has a
row is left out.
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from contagg.benchmark.bench import describe
from contagg.errors import UserError
from contagg.files import write_output


def cpu_seconds(words: Sequence[str]) -> float:
    """Of `contagg` with these words. UserError where it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "contagg", *words], check=False)
    if done.returncode:
        raise UserError(f"contagg {' '.join(words)} ended with {done.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


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
        rows = json.loads(given.file.read_text()) if given.file.is_file() else []
        if any((row["seed"], row["budget"]) == (seed, given.budget) for row in rows):
            continue
        keys = [*given.keys, "--run.seed", str(seed), "--run.folder"]
        about = describe(torch.device("cpu"))
        row = {
            "seed": seed,
            "budget": given.budget,
            "fit": round(cpu_seconds(["fit", *keys, str(given.runs / f"open_{seed}")]), 1),
            "place": round(
                cpu_seconds(
                    ["place", *keys, str(given.runs / f"learnt_{given.budget}_{seed}"), "--budget", given.budget]
                ),
                1,
            ),
            **{key: about[key] for key in ("device", "threads", "commit", "torch")},
        }
        rows = json.loads(given.file.read_text()) if given.file.is_file() else []  # another may have added to it
        rows = sorted([*rows, row], key=lambda row: (row["budget"], row["seed"]))
        write_output(given.file, json.dumps(rows, indent=1).encode())
        print(f"seed {seed}: fit {row['fit']} CPU s, place {row['place']}", flush=True)


if __name__ == "__main__":
    main()
