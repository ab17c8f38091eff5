"""Makes runs, some at a time, each in a process of its own; says how far it is and how long it will take."""

import multiprocessing
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from statistics import fmean
from typing import Any

import torch

from contagg.benchmark.bench import describe
from contagg.errors import printable
from contagg.lab.making import BUSY, DONE, FAILED, STOPPED, Run, finished_epochs, in_process
from contagg.output import duration
from contagg.training.signals import StopSignals

_GLANCE = 2.0
"""Seconds between looks at the runs under way."""


@dataclass
class _Working:
    """A run under way."""

    run: Run
    process: BaseProcess
    answer: Connection
    began: float = field(default_factory=time.monotonic)
    begun_with: int = 0

    def left(self) -> float | None:
        """Seconds left by its own pace; None before its first epoch is over."""
        done, took = finished_epochs(self.run), time.monotonic() - self.began
        if done <= self.begun_with:
            return None
        return took / (done - self.begun_with) * (self.run.arm.recipe.optimization.epochs - done)


class Pace:
    """How long runs take: each arm's mean so far, and for arms without a run the mean over the others.

    Args:
        seconds: Of finished runs, by the name of the arm.
    """

    def __init__(self, seconds: Iterable[tuple[str, float]] = ()) -> None:
        self.known: dict[str, list[float]] = {}
        for name, took in seconds:
            self.add(name, took)

    def add(self, name: str, seconds: float) -> None:
        """Note a finished run."""
        self.known.setdefault(name, []).append(seconds)

    def of(self, names: Iterable[str]) -> float | None:
        """Seconds of a run of each of these arms; None where no arm has one.

        >>> Pace([("a", 10.0), ("b", 30.0)]).of(["a", "c"])
        30.0
        """
        if not self.known:
            return None
        means = {name: fmean(values) for name, values in self.known.items()}
        usual = fmean(means.values())
        return sum(means.get(name, usual) for name in names)


@dataclass
class Outcome:
    """What became of runs.

    Attributes:
        failed: Those that ended with an error, and its line.
        busy: Those that another process makes.
        stopped_by: The number of the signal that asked to stop; 0 is none.
    """

    failed: list[tuple[Run, str]] = field(default_factory=list)
    busy: list[Run] = field(default_factory=list)
    stopped_by: int = 0


class Schedule:
    """Makes runs in their order.

    Args:
        jobs: Runs at once.
        pace: What is known of how long they take.
        score: A finished run in a few words, such as its accuracy.
        watch: Called now and then with each run under way; what it raises ends all.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        jobs: int,
        pace: Pace,
        score: Callable[[Run], str],
        watch: Callable[[Run], None],
    ) -> None:
        self.waiting, self.jobs, self.pace, self.score, self.watch = deque(runs), jobs, pace, score, watch
        self.total, self.finished = len(runs), 0
        self.working: list[_Working] = []
        self.outcome = Outcome()
        self._line = 0

    def work(self) -> Outcome:
        """Until all runs have ended, or until asked to stop: then those under way are saved."""
        context = _context()
        with StopSignals() as signals:
            try:
                while self.waiting or self.working:
                    while self.waiting and len(self.working) < self.jobs and not signals.received:
                        self._start(context)
                    ready = wait([working.process.sentinel for working in self.working], _GLANCE)
                    for working in self.working:
                        self.watch(working.run)
                    for working in [working for working in self.working if working.process.sentinel in ready]:
                        self._end(working)
                    if signals.received and not self.outcome.stopped_by:
                        self._say("stopping: the runs under way are being saved")
                        self.outcome.stopped_by = signals.received
                        self.waiting.clear()
                        self._ask_to_stop()
                    self._status()
            finally:
                self._ask_to_stop()
        return self.outcome

    def _start(self, context: Any) -> None:
        run = self.waiting.popleft()
        mine, its = context.Pipe(duplex=False)
        process = context.Process(target=in_process, args=(run, run.folder / "log.txt", its))
        process.start()
        its.close()
        self.working.append(_Working(run, process, mine, begun_with=finished_epochs(run)))

    def _end(self, working: _Working) -> None:
        working.process.join()
        self.working.remove(working)
        try:
            how, line = working.answer.recv()
        except EOFError:
            how, line = FAILED, f"its process ended with code {working.process.exitcode}"
        if how == FAILED and self.outcome.stopped_by:
            how = STOPPED  # by the signal, before there was anything to save
        run, took = working.run, time.monotonic() - working.began
        name = f"{run.arm.name}, seed {run.seed}"
        if how == DONE:
            self.finished += 1
            if not working.begun_with:
                self.pace.add(run.arm.name, took)
            self._say(f"[{self.finished}/{self.total}] {name}: {self.score(run)}, {duration(took)}{self._left()}")
        elif how == BUSY:
            self.outcome.busy.append(run)
            self._say(f"{name}: another process makes it")
        elif how == FAILED:
            self.outcome.failed.append((run, line))
            self._say(f"{name}: failed: {printable(line)}")

    def _ask_to_stop(self) -> None:
        for working in self.working:
            if working.process.is_alive():
                working.process.terminate()

    def _left(self) -> str:
        own = [(working, working.left()) for working in self.working]
        names = [run.arm.name for run in self.waiting]
        names += [working.run.arm.name for working, left in own if left is None]
        waiting = self.pace.of(names)
        known = [left for _, left in own if left is not None]
        if waiting is None and not known:
            return ""
        seconds = sum(known) + (waiting or 0) if waiting is not None or not names else None
        if seconds is None:  # of the first run's pace alone
            seconds = fmean(known) * (len(known) + len(names))
        return f"; about {duration(seconds / self.jobs)} left" if seconds else ""

    def _status(self) -> None:
        """On a terminal, what is under way, on a line that the next takes the place of."""
        if not sys.stdout.isatty() or not self.working:
            return
        parts = [
            f"{working.run.arm.name}, seed {working.run.seed}: epoch {finished_epochs(working.run) + 1}"
            f"/{working.run.arm.recipe.optimization.epochs}"
            for working in self.working
        ]
        width = os.get_terminal_size().columns - 1
        line = f"{'; '.join(parts)}{self._left()}"[:width]
        print(f"\r{line:{self._line}}", end="", flush=True)
        self._line = len(line)

    def _say(self, line: str) -> None:
        print(f"\r{' ' * self._line}\r{line}" if self._line else line, flush=True)
        self._line = 0


def _context() -> Any:
    """Processes begin from one that has imported all they need and computed nothing: no threads, no GPU."""
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([in_process.__module__, *_TASKS])
    return context


_TASKS = ("contagg.classification.fit", "contagg.detection.fit", "contagg.self_supervised.fit")


def seconds_of(rows: Iterable[Mapping[str, Any]], device: torch.device) -> Pace:
    """The pace of finished runs that were made in one go on this device."""
    name = describe(device)["device"]
    made = [row for row in rows if row.get("device") == name and isinstance(row.get("seconds"), int | float)]
    return Pace((row["arm"], float(row["seconds"])) for row in made)
