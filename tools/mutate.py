"""Do the tests notice a wrong number? Changes of meaning, chosen by hand, each made in a copy of src and tested.

`python -m tools.mutate` makes every change of tools/mutants/*.toml, one at a time, and runs the tests that should
notice it: a change that they notice is killed, one that they do not survives. results/mutate has a row a change, so
that the same command goes on after Ctrl-C, and makes again what changed since. Two rooms can run at once (`--only`).

mutmut, cosmic-ray and mutatest make changes of syntax by rules of their own and take no list: thousands of changes
here, most of them noise, each with a start of torch of many seconds. This imports the libraries once and forks.

An entry's `old` occurs exactly once in its file, which `check` says without running anything; `equivalent` argues why
no test could notice a change, which then is not made.
"""

import argparse
import dataclasses
import hashlib
import importlib
import json
import math
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MUTANTS = ROOT / "tools" / "mutants"
RESULTS = ROOT / "results" / "mutate"

_PRELOADED = (
    "pytest", "torch", "torchvision.models.detection", "torchvision.transforms.v2", "timm", "pytorch_lightning",
    "torchmetrics.classification", "torch.utils.tensorboard", "matplotlib.figure", "scipy.optimize", "sklearn.datasets",
    "jsonargparse", "faster_coco_eval", "pycocotools.cocoeval",
    "transformers.models.deformable_detr.modeling_deformable_detr",
)  # fmt: skip
"""What takes seconds to import and is not ours: imported once, before the forks."""
_ANSWERS: dict[int | str, str] = {0: "survived", 1: "noticed", "timeout": "killed"}
"""What pytest's exit codes say, any other is no answer of a test; what was noticed is killed once it is known that the
test passes without the change."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mutant:
    """A change of meaning.

    Attributes:
        room: The file of mutants that it stands in.
        name: What is wrong with it.
        file: Below src/contagg.
        old, new: Text that is there exactly once, and what stands there instead.
        tests: Files and names of tests, as pytest takes them.
        equivalent: Why nothing changes for a user, in one line; then it is not run.
    """

    room: str
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    equivalent: str = ""

    def key(self) -> str:
        """Another one where the change, its file or its tests are others: an answer holds until then."""
        parts = [self.old, self.new, *self.tests, (ROOT / "src" / "contagg" / self.file).read_text()]
        parts += [(ROOT / test.partition("::")[0]).read_text() for test in self.tests]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def read_mutants(folder: Path = MUTANTS) -> list[Mutant]:
    """The entries of all files, in the order of their names."""
    return [
        Mutant(room=path.stem, **{**entry, "tests": tuple(entry.get("tests", default)), "file": prefix + entry["file"]})
        for path in sorted(folder.glob("*.toml"))
        for content in [tomllib.loads(path.read_text())]
        for default, prefix in [(content.get("tests", ()), content.get("folder", ""))]
        for entry in content["mutant"]
    ]


def stale(mutants: Sequence[Mutant], root: Path = ROOT) -> list[str]:
    """A line for each entry that no longer fits the code or its tests."""
    lines = [
        f"{name!r} is the name of {times}" for name, times in Counter(m.name for m in mutants).items() if times > 1
    ]
    for mutant in mutants:
        source = root / "src" / "contagg" / mutant.file
        times = source.read_text().count(mutant.old) if source.is_file() else 0
        if times != 1:
            lines.append(f"{mutant.room}: {mutant.name!r}: its old text occurs {times} times in {mutant.file}")
        if mutant.old == mutant.new or not (mutant.tests or mutant.equivalent):
            lines.append(f"{mutant.room}: {mutant.name!r} changes nothing, or names no test")
        for test in mutant.tests:
            name, _, function = test.partition("::")
            path = root / name
            wanted = function.partition("[")[0]
            if not path.exists() or (wanted and not re.search(rf"^def {wanted}\(", path.read_text(), re.MULTILINE)):
                lines.append(f"{mutant.room}: {mutant.name!r}: there is no test {test}")
    return lines


class Copy:
    """A copy of src, in which one change at a time is made."""

    def __init__(self, folder: Path) -> None:
        self.src = folder / "src"
        shutil.copytree(ROOT / "src", self.src, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))

    def start(self, mutant: Mutant | None, tests: Sequence[str], log: Path, seconds: float) -> int:
        """The process that tests the copy with a change, or as it is."""
        if mutant is not None:
            path = self.src / "contagg" / mutant.file
            path.write_text(path.read_text().replace(mutant.old, mutant.new))
        process = os.fork()
        if process:
            return process
        try:
            _test(self.src, tests, log, math.ceil(seconds))
        finally:
            os._exit(70)

    def restore(self, mutant: Mutant) -> None:
        """Take the change back."""
        shutil.copy(ROOT / "src" / "contagg" / mutant.file, self.src / "contagg" / mutant.file)


def _test(src: Path, tests: Sequence[str], log: Path, seconds: int) -> None:
    """In a process of its own: run pytest on a copy, and leave with its code."""
    import pytest

    os.setpgid(0, 0)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(ROOT)
    # A change may be as long as what it replaces and come within a second: kept bytecode would hide it.
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONPATH": str(src), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    sys.path[:0] = [str(src)]
    code = pytest.main(["-q", "-p", "no:cacheprovider", *tests])
    loaded = Path(sys.modules["contagg"].__file__ or "")
    sys.stdout.flush()
    os._exit(int(code) if loaded.is_relative_to(src) else 71)


def wait(process: int, seconds: float) -> str | int:
    """The exit code, or "timeout" after so many seconds of the processor, or ten times as many by the clock."""
    end = time.monotonic() + 10 * seconds
    try:
        while time.monotonic() < end:
            done, status = os.waitpid(process, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
                return "timeout" if code in (-signal.SIGXCPU, -signal.SIGKILL) else code
            time.sleep(0.1)
    except KeyboardInterrupt:
        os.killpg(process, signal.SIGKILL)
        raise
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return "timeout"


def failed(log: Path) -> list[str]:
    """The tests that failed, from pytest's summary."""
    return re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", log.read_text(errors="replace"), re.MULTILINE)


def run(mutants: Sequence[Mutant], seconds: float) -> Iterator[tuple[Mutant, dict[str, Any]]]:
    """Test the changes one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        copy, log = Copy(Path(folder)), Path(folder, "log")
        for mutant in mutants:
            begin = time.monotonic()
            code = wait(copy.start(mutant, ["-x", *mutant.tests], log, seconds), seconds)
            copy.restore(mutant)
            by = "".join(failed(log)[:1]) if code == 1 else str(code or "")
            yield mutant, {"answer": _ANSWERS.get(code, "broken"), "by": by, "seconds": round(time.monotonic() - begin)}


def unsound(tests: Sequence[str], seconds: float) -> list[str]:
    """Those of the tests that noticed changes which fail without any, so that they say nothing."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        options = ["--continue-on-collection-errors", *tests]
        code = wait(Copy(Path(folder)).start(None, options, log, seconds), seconds)
        return [] if code == 0 else failed(log) if code == 1 else list(tests)


class Kept:
    """Rows of earlier answers, a file a room."""

    def __init__(self, folder: Path = RESULTS) -> None:
        self.folder = folder
        self.rows: dict[str, dict[str, Any]] = {}
        for path in sorted(folder.glob("*.json")):
            self.rows |= {row["name"]: row for row in json.loads(path.read_text())["mutants"]}

    def holds(self, mutant: Mutant) -> bool:
        """Whether its answer is one, and still of this change, file and tests."""
        row = self.rows.get(mutant.name, {})
        return row.get("answer") in ("killed", "survived", "noticed") and row.get("key") == mutant.key()

    def add(self, mutant: Mutant, row: dict[str, Any], every: Sequence[Mutant]) -> None:
        """Keep an answer, and write its room's file."""
        self.rows[mutant.name] = {"name": mutant.name, "file": mutant.file, **row}
        room = [self.rows[m.name] for m in every if m.room == mutant.room and m.name in self.rows]
        content = {"command": "python -m tools.mutate", "device": _device(), "mutants": room}
        self.folder.mkdir(parents=True, exist_ok=True)
        beside = self.folder / f".{mutant.room}.{os.getpid()}.tmp"
        beside.write_text(json.dumps(content, indent=1) + "\n")
        beside.replace(self.folder / f"{mutant.room}.json")


def settle(kept: Kept, mutants: Sequence[Mutant], every: Sequence[Mutant], seconds: float) -> None:
    """What was noticed is killed, if the test that did passes without the change."""
    noticed = [m for m in mutants if kept.rows.get(m.name, {}).get("answer") == "noticed"]
    tests = sorted({kept.rows[m.name]["by"] for m in noticed})
    wrong = unsound(tests, max(len(tests), 5) * seconds) if tests else []
    for mutant in noticed:
        row = kept.rows[mutant.name]
        kept.add(mutant, row | {"answer": "broken" if row["by"] in wrong else "killed"}, every)


def _device() -> str:
    processor = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
            break
    return f"{processor}, one thread, torch {version('torch')}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", metavar="PATTERN", help="regular expression on room, file and name")
    parser.add_argument("--check", action="store_true", help="say which entries are stale, and run nothing")
    parser.add_argument("--again", action="store_true", help="also those whose answer still holds")
    parser.add_argument("--seconds", type=float, default=100, help="of the processor, for a change's tests")
    options = parser.parse_args()
    every = read_mutants()
    if lines := stale(every):
        print("\n".join(lines), file=sys.stderr)
        return 2
    chosen = [m for m in every if re.search(options.only, f"{m.room} {m.file} {m.name}")]
    if options.check:
        print(f"{len(every)} changes, all of which fit")
        return 0
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout
    kept = Kept()
    for mutant in [m for m in chosen if m.equivalent]:
        kept.add(mutant, {"answer": "equivalent", "by": mutant.equivalent}, every)
    wanted = [m for m in chosen if not m.equivalent]
    wanted = [m for m in wanted if options.again or not kept.holds(m)]
    for name in _PRELOADED:
        importlib.import_module(name)
    try:
        for mutant, row in run(wanted, options.seconds):
            kept.add(mutant, {**row, "tests": mutant.tests, "commit": commit.strip(), "key": mutant.key()}, every)
            print(f"{row['answer']:9} {row['seconds']:4} s  {mutant.file}: {mutant.name}  {row['by']}", flush=True)
    except KeyboardInterrupt:
        print("stopped; what was noticed so far is settled", flush=True)
    settle(kept, chosen, every, options.seconds)
    counts = Counter(kept.rows.get(m.name, {}).get("answer", "not made") for m in chosen)
    made = len(chosen) - counts["equivalent"] - counts["not made"]
    share = counts["killed"] / max(made, 1)
    print(f"{counts['killed']} of {made} killed ({share:.1%}); {dict(sorted(counts.items()))}")
    return int(counts["killed"] < len(chosen) - counts["equivalent"])


if __name__ == "__main__":
    sys.exit(main())
