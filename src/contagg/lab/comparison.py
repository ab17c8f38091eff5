"""`contagg compare`: plans the runs, has them made, and reports."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from contagg.device import choose_device
from contagg.errors import UserError, named, plural, printable
from contagg.lab.arms import Arms
from contagg.lab.costs import estimate, measure, measured
from contagg.lab.findings import Curve, Findings, no_metric, sizes_told
from contagg.lab.making import Opener, Run, metric_names
from contagg.lab.matching import match
from contagg.lab.own_code import own_code
from contagg.lab.report import score, text, write
from contagg.lab.rows import Row, RunsFile, summary
from contagg.lab.schedule import Outcome, Schedule, seconds_of
from contagg.lab.sizes import Size, each_loader, network, size
from contagg.output import duration
from contagg.training.engine import Job, check_machine
from contagg.training.run_folder import RAW
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
        arms.having(set(arms.names) - sizes.keys()).check_networks()  # a word that is mistyped has no run
        _tell(Findings(arms, file, sizes, options.metric, seeds), folder)  # without the data
        return
    arms.check()
    opener = Opener(arms.recipe, workers=0)
    if options.match:
        arms = match(arms, opener, options.match)
    plan = _planned(arms, opener, options.metric)
    made = _made(arms, file, plan, seeds, options.metric)
    runs = [Run(arm, seed, arms.recipe, folder) for seed in seeds for arm in arms.arms if (arm.name, seed) not in made]
    if options.dry_run:
        _foretell(arms, plan.sizes, runs, options.jobs)
        if made:
            print(f"\n{text(Findings(arms, file, plan.sizes, options.metric, seeds))}")
        return
    outcome = Outcome() if options.report else _make(arms, runs, file, plan, options)
    made = _made(arms, file, plan, seeds, options.metric)
    outcome.busy = [run for run in outcome.busy if (run.arm.name, run.seed) not in made]
    if made and not (options.report or outcome.stopped_by or outcome.busy):  # beside others' runs times say nothing
        _measure(arms.having({name for name, _ in made}), opener, file, options.rounds)
    if options.report or made:
        _tell(Findings(arms, file, plan.sizes, options.metric, seeds), folder)
    _end(outcome, folder)


def _tell(findings: Findings, folder: Path) -> None:
    """Print the table, write the files and say where they are."""
    print(f"\n{text(findings)}\n")
    print("\n".join(map(str, write(findings, folder))), flush=True)


@dataclass(frozen=True)
class _Plan:
    """Of each arm, by its name: size, `summary` of the data, its mixers' `own_code`, what its task is best in."""

    sizes: Mapping[str, Size]
    data: Mapping[str, Mapping[str, Any]]
    code: Mapping[str, Mapping[str, str]]
    monitors: Mapping[str, str]


def _planned(arms: Arms, opener: Opener, metric: str | None) -> _Plan:
    """Each arm is built once before anything is trained. UserError where nothing is asked of it that it measures."""
    sizes, data, code, monitors = {}, {}, {}, {}
    for arm in arms.arms:
        with named(f"arm {arm.name!r}"):
            job = opener.job(arm.recipe)
            if metric is None and not _is_judged(job):
                raise UserError(
                    f"its runs never measure {job.monitor}, by which runs of {arm.recipe.task} are compared: say "
                    "another, --metric train_loss"
                )
            if metric is not None:
                _check_metric(job, metric)
            sizes[arm.name], data[arm.name], monitors[arm.name] = size(job), summary(job.fingerprint), job.monitor
            code[arm.name] = own_code(network(job))
    return _Plan(sizes, data, code, monitors)


def _check_metric(job: Job, metric: str) -> None:
    """UserError for one that is not validation's, where its are known. Which losses training has, its steps say."""
    known = ["train_loss", *job.metrics]
    others = metric.startswith("train_") or metric in ("epoch", "step", "learning_rate")
    if job.metrics and not others and metric.removesuffix(RAW) not in known:
        raise no_metric(metric, known)


def _is_judged(job: Job) -> bool:
    """Whether a run of it is validated: DINO's are not without labels."""
    return bool(each_loader(job.validation_batches(0, 1))) and job.validate_every <= job.optimization.epochs


def _made(
    arms: Arms, file: RunsFile, plan: _Plan, seeds: Iterable[int], metric: str | None
) -> dict[tuple[str, int], Row]:
    """The rows of the arms and seeds that were asked for. UserError where they do not have the metric."""
    asked = set(seeds)
    found = {key: row for key, row in file.of_arms(arms.arms, plan.data, plan.code).items() if key[1] in asked}
    if metric:
        for row in found.values():
            Curve.of(row, metric)
    return found


def _make(arms: Arms, runs: Sequence[Run], file: RunsFile, plan: _Plan, options: argparse.Namespace) -> Outcome:
    if not runs:
        return Outcome()
    file.prepare()
    names = "; ".join(arm.name for arm in arms.arms)
    total = plural(len(arms.arms) * options.seeds, "run")
    print(f"{plural(len(arms.arms), 'arm')}: {names}\n{len(runs)} of {total} to make", flush=True)
    device = choose_device("cpu" if arms.recipe.run.accelerator == "cpu" else "auto")
    pace = seconds_of(file.rows(), device)

    def told(run: Run) -> str:
        row = next(row for row in file.rows() if (row["arm"], row["seed"]) == (run.arm.name, run.seed))
        return score(row, options.metric)

    def watch(run: Run) -> None:
        """UserError once a run was validated and does not have the metric: not when all its epochs are over."""
        known = metric_names(run) if options.metric else []
        if plan.monitors[run.arm.name] in known and options.metric not in known:
            raise no_metric(options.metric, known)

    return Schedule(runs, options.jobs, pace, told, watch).work()


def _measure(arms: Arms, opener: Opener, file: RunsFile, rounds: int) -> None:
    if rounds and measured(file.read()["costs"], arms) is None:
        turns = plural(rounds, "round")
        print(f"measuring time and memory of {plural(len(arms.arms), 'arm')} in turns, {turns}", flush=True)
        try:
            file.set_costs(measure(arms, opener, rounds))
        except Exception as error:  # a task of other people's may not step without a trainer; the runs are there
            print(f"they could not be measured: {type(error).__name__}: {printable(str(error))}", flush=True)


def _foretell(arms: Arms, sizes: Mapping[str, Size], runs: Sequence[Run], jobs: int) -> None:
    """Print each arm's keys and costs, and how long the runs will take."""
    opener = Opener(arms.recipe)  # with the processes that read data
    width = max(len(arm.name) for arm in arms.arms)
    print(f"{'arm':<{width}}  {'params':>11}  {'multiply-adds':>14}  {'a run':>12}  runs  keys")
    total = 0.0
    for arm in arms.arms:
        with named(f"arm {arm.name!r}"):
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
    print(f"{plural(len(runs), 'run')} to make: about {duration(total / jobs)} with --jobs {jobs}")


def _end(outcome: Outcome, folder: Path) -> None:
    """Leave as what became of the runs asks for."""
    if outcome.stopped_by:
        raise StoppedError(outcome.stopped_by, "stopped; the same command goes on")
    if outcome.busy:
        under_way = plural(len(outcome.busy), "run")
        print(f"other processes are at work on {under_way}; once they are done, the same command measures and reports")
    if outcome.failed:
        run, line = outcome.failed[0]
        raise UserError(
            f"{plural(len(outcome.failed), 'run')} failed, the first {run.arm.name!r} with seed {run.seed}: {line}. "
            f"See {run.folder / 'log.txt'}; the same command tries again"
        )
