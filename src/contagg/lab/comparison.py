"""`contagg compare`: plans the runs, has them made, and reports."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from contagg.device import choose_device
from contagg.errors import UserError
from contagg.lab.arms import Arms
from contagg.lab.costs import estimate, measure, measured
from contagg.lab.findings import Findings, sizes_told
from contagg.lab.making import Opener, Run
from contagg.lab.matching import match
from contagg.lab.report import score, text, write
from contagg.lab.rows import RunsFile, summary
from contagg.lab.schedule import Outcome, Schedule, seconds_of
from contagg.lab.sizes import Size, size
from contagg.training.engine import check_machine
from contagg.training.progress import duration
from contagg.training.signals import StoppedError


def compare(arms: Arms, folder: Path, options: argparse.Namespace) -> None:
    """Make what runs are missing, measure, report.

    Args:
        arms: Of the command line.
        folder: Of the comparison.
        options: `seeds`, `match`, `metric`, `jobs`, `rounds`, `dry_run`, `report`.

    Raises:
        UserError: an arm that cannot be built, rows of another recipe or data, runs that failed.
        StoppedError: asked to stop; runs under way are saved.
    """
    torch.set_num_threads(1)  # as the runs are made
    check_machine(arms.recipe.run)
    file = RunsFile(folder, arms.recipe)
    seeds = range(arms.recipe.run.seed, arms.recipe.run.seed + options.seeds)
    if options.report and not options.match and (sizes := sizes_told(arms, file)):
        _tell(Findings(arms, file, sizes, options.metric, seeds), folder)  # without the data
        return
    opener = Opener(arms.recipe, workers=0)
    if options.match:
        arms = match(arms, opener, options.match)
    sizes, data = _planned(arms, opener)
    made = file.of_arms(arms.arms, data)
    runs = [Run(arm, seed, arms.recipe, folder) for seed in seeds for arm in arms.arms if (arm.name, seed) not in made]
    if options.dry_run:
        _foretell(arms, sizes, runs, options.jobs)
        if made:
            print(f"\n{text(Findings(arms, file, sizes, options.metric, seeds))}")
        return
    outcome = Outcome()
    if not options.report:
        outcome = _make(arms, runs, file, options)
        if not outcome.stopped_by:
            _measure(arms, opener, file, options.rounds)
    if options.report or file.of_arms(arms.arms, data):
        _tell(Findings(arms, file, sizes, options.metric, seeds), folder)
    _end(outcome, folder)


def _tell(findings: Findings, folder: Path) -> None:
    """Print the table, write the files and say where they are."""
    print(f"\n{text(findings)}\n")
    print("\n".join(map(str, write(findings, folder))), flush=True)


def _planned(arms: Arms, opener: Opener) -> tuple[dict[str, Size], dict[str, dict[str, Any]]]:
    """Size, and `summary` of the data, of each arm; so each is built once before anything is trained."""
    sizes, data = {}, {}
    for arm in arms.arms:
        try:
            job = opener.job(arm.recipe)
            sizes[arm.name], data[arm.name] = size(job), summary(job.fingerprint)
        except UserError as error:
            raise UserError(f"arm {arm.name!r}: {error}") from error
    return sizes, data


def _make(arms: Arms, runs: Sequence[Run], file: RunsFile, options: argparse.Namespace) -> Outcome:
    if not runs:
        return Outcome()
    try:
        file.path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"-o {file.path.parent} cannot be used: {error.strerror}") from error
    names = "; ".join(arm.name for arm in arms.arms)
    print(f"{len(arms.arms)} arms: {names}\n{len(runs)} of {len(arms.arms) * options.seeds} runs to make", flush=True)
    device = choose_device("cpu" if arms.recipe.run.accelerator == "cpu" else "auto")
    pace = seconds_of(file.rows(), device)

    def told(run: Run) -> str:
        row = next(row for row in file.rows() if (row["arm"], row["seed"]) == (run.arm.name, run.seed))
        return score(row, options.metric)

    return Schedule(runs, options.jobs, pace, told).work()


def _measure(arms: Arms, opener: Opener, file: RunsFile, rounds: int) -> None:
    if rounds and measured(file.read()["costs"], arms) is None:
        print(f"measuring time and memory of {len(arms.arms)} arms in turns, {rounds} rounds", flush=True)
        try:
            file.set_costs(measure(arms, opener, rounds))
        except Exception as error:  # a task of other people's may not step without a trainer; the runs are there
            print(f"they could not be measured: {type(error).__name__}: {error}", flush=True)


def _foretell(arms: Arms, sizes: Mapping[str, Size], runs: Sequence[Run], jobs: int) -> None:
    """Print each arm's keys and costs, and how long the runs will take."""
    opener = Opener(arms.recipe)  # with the processes that read data
    width = max(len(arm.name) for arm in arms.arms)
    print(f"{'arm':<{width}}  {'params':>11}  {'multiply-adds':>14}  {'a run':>12}  runs  keys")
    total = 0.0
    for arm in arms.arms:
        seconds = estimate(arm, opener)
        missing = sum(run.arm.name == arm.name for run in runs)
        total += seconds * missing
        keys = ", ".join(f"{key}={value}" for key, value in arm.changes.items()) or "the recipe's own"
        own = sizes[arm.name]
        print(
            f"{arm.name:<{width}}  {own.parameters:>11,}  {own.multiply_adds:>14,}  {duration(seconds):>12}"
            f"  {missing:>4}  {keys}",
            flush=True,
        )
    print(f"{len(runs)} runs to make: about {duration(total / jobs)} with --jobs {jobs}")


def _end(outcome: Outcome, folder: Path) -> None:
    """Leave as what became of the runs asks for."""
    if outcome.stopped_by:
        raise StoppedError(outcome.stopped_by, "stopped; the same command goes on")
    if outcome.busy:
        print(f"{len(outcome.busy)} runs are being made by other processes; the same command then tells of them")
    if outcome.failed:
        run, line = outcome.failed[0]
        raise UserError(
            f"{len(outcome.failed)} runs failed, the first {run.arm.name!r} with seed {run.seed}: {line}. "
            f"See {run.folder / 'log.txt'}; the same command tries again"
        )
