"""Finished runs as rows of one JSON file: of which recipe and data they are, what they reached, on what machine.

```json
{"format": 1, "recipe": {"task": "classification", "optimization.epochs": 10},
 "data": {"3fb2...": {"class_names": ["cat", "dog"], "splits": {"training": {"counts": [5, 7]}}}},
 "costs": {},
 "rows": [{"arm": "dwconv5", "seed": 0, "changes": {"model.options.affinity": "dwconv5"}, "data": "3fb2...",
           "metrics": {"epoch": [1, 2], "accuracy": [0.31, 0.42]}, "seconds": 61.2}]}
```
"""

import fcntl
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contagg.config import defaults, flatten
from contagg.data.fingerprint import Fingerprint
from contagg.errors import UserError, plural
from contagg.files import write_atomically
from contagg.lab.arms import Arm, identity
from contagg.lab.checking import FORMAT, checked_content

_SHOWN = 4

Row = dict[str, Any]


def digest(data: Mapping[str, Any]) -> str:
    """Of a summary of data, or of anything else that JSON can hold."""
    return hashlib.blake2b(json.dumps(data, sort_keys=True).encode(), digest_size=12).hexdigest()


def summary(fingerprint: Fingerprint) -> dict[str, Any]:
    """What is told of data in the file: class names, and of each split how many of each class and hashes."""
    state = fingerprint.state_dict()
    splits = {name: {k: v for k, v in split.items() if k != "marks"} for name, split in state["splits"].items()}
    return {"class_names": state["class_names"], "splits": splits}


class RunsFile:
    """`runs.json` in a folder, for one recipe; several processes may add to it.

    Args:
        folder: Of the comparison.
        recipe: Of the comparison.

    Raises:
        UserError: the file is of another recipe, which names the keys, or is no such file.
    """

    def __init__(self, folder: Path, recipe: Any) -> None:
        self.path, self.recipe = folder / "runs.json", identity(recipe)
        self._defaults = flatten(defaults(recipe))
        self.read()

    def read(self) -> dict[str, Any]:
        """The whole file, checked; an empty one where there is none."""
        if not self.path.exists():
            return {"format": FORMAT, "recipe": self.recipe, "data": {}, "costs": {}, "rows": []}
        content = checked_content(self.path)
        # A key that came into being later had no other value then than its default.
        known = {key: value for key, value in self._defaults.items() if key in self.recipe}
        changed = _changed(known | content["recipe"], self.recipe)
        if changed:
            raise UserError(f"{self.path} holds runs of another recipe: {changed}. Give another folder with -o")
        return content

    def rows(self) -> list[Row]:
        """All rows."""
        return self.read()["rows"]

    def of_arms(
        self, arms: Iterable[Arm], data: Mapping[str, Mapping[str, Any]], code: Mapping[str, Mapping[str, str]]
    ) -> dict[tuple[str, int], Row]:
        """The rows of arms by name and seed.

        Args:
            data: The `summary` of each arm's data by its name; what is not there is not compared.
            code: Likewise the `own_code` of its mixers, where a row says it.

        Raises:
            UserError: a row of an arm's name was made with other keys, data or code, which are named.
        """
        content = self.read()
        found: dict[tuple[str, int], Row] = {}
        known = {arm.name: arm for arm in arms}
        for row in content["rows"]:
            if (arm := known.get(row["arm"])) is None:
                continue
            where = f"{self.path}: the run of {arm.name!r} with seed {row['seed']}"
            if changed := _changed(row["changes"], arm.changes):
                raise UserError(f"{where} was made with other keys: {changed}. Give the arm another name, or -o FOLDER")
            now = data.get(arm.name)
            if now is not None and row["data"] != digest(now):
                difference = _data_difference(content["data"].get(row["data"], {}), now)
                raise UserError(f"{where} was made with other data: {difference}. Give another folder with -o")
            here = code.get(arm.name, {})
            own = row.get("own_code", here) if arm.name in code else here
            if other := [kind for kind in {**own, **here} if own.get(kind) != here.get(kind)]:
                raise UserError(f"{where} was made with other code of {other[0]}. Give another folder with -o")
            found.setdefault((arm.name, row["seed"]), row)  # as `add`: of two the first
        return found

    def prepare(self) -> None:
        """Make the folder, and see that rows and runs can be written there. UserError otherwise."""
        folder = self.path.parent
        try:
            (folder / "runs").mkdir(parents=True, exist_ok=True)
            self._lock.open("w").close()
        except OSError as error:
            raise UserError(f"-o {folder} cannot be used: {error.filename}: {error.strerror}") from error

    def add(self, row: Row, data: Mapping[str, Any]) -> None:
        """Add a finished run, made with data of this `summary`; of two equal ones the first stays."""
        with self._locked() as content:
            if all((other["arm"], other["seed"]) != (row["arm"], row["seed"]) for other in content["rows"]):
                content["data"][row["data"]] = data
                content["rows"].append(row)

    def set_costs(self, costs: Mapping[str, Any]) -> None:
        """Replace what was measured of the arms."""
        with self._locked() as content:
            content["costs"] = dict(costs)

    @property
    def _lock(self) -> Path:
        return self.path.parent / ".runs.lock"

    @contextmanager
    def _locked(self) -> Iterator[dict[str, Any]]:
        """The file's content, written back when left; one process at a time."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock.open("w") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX)
            content = self.read()
            yield content
            write_atomically(self.path, as_text(content).encode())


def as_text(content: Mapping[str, Any]) -> str:
    """JSON with a line for each row, so that a commit shows which runs were added."""
    parts = []
    for key, value in content.items():
        if isinstance(value, dict) and value:
            inner = ",\n".join(f"  {json.dumps(name)}: {json.dumps(item)}" for name, item in value.items())
            parts.append(f" {json.dumps(key)}: {{\n{inner}\n }}")
        elif isinstance(value, list) and value:
            inner = ",\n".join(f"  {json.dumps(item)}" for item in value)
            parts.append(f" {json.dumps(key)}: [\n{inner}\n ]")
        else:
            parts.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def columns(rows: Iterable[Mapping[str, float | int]]) -> dict[str, list[float | None]]:
    """A run's rows, one an epoch, as a list each name; numbers to seven digits, None where an epoch has none.

    >>> columns([{"epoch": 1, "loss": 0.1234567891}, {"epoch": 2, "loss": 0.1, "accuracy": 0.5}])
    {'epoch': [1, 2], 'loss': [0.1234568, 0.1], 'accuracy': [None, 0.5]}
    """
    rows = list(rows)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [_rounded(row.get(name)) for row in rows] for name in names}


def _rounded(value: float | int | None) -> float | int | None:
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    found = [
        f"{key} is {before.get(key, 'absent')} there and {now.get(key, 'absent')} here"
        for key in sorted(before.keys() | now.keys())
        if before.get(key, "absent") != now.get(key, "absent")
    ]
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return "; ".join(found[:_SHOWN]) + more


def _data_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two summaries, in words."""
    found = []
    if before.get("class_names") != now["class_names"]:
        found.append(
            f"{plural(len(before.get('class_names', ())), 'class', 'classes')} there, "
            f"{len(now['class_names'])} here, or named otherwise"
        )
    for name, split in now["splits"].items():
        old = before.get("splits", {}).get(name, {})
        if sum(old.get("counts", ())) != sum(split["counts"]):
            found.append(f"{plural(sum(old.get('counts', ())), f'{name} image')} there and {sum(split['counts'])} here")
        elif parts := [part for part in ("names", "labels", "contents") if old.get(part) != split[part]]:
            found.append(f"other {' and '.join(parts)} of {name} images")
    return "; ".join(found) or "they were not told apart further"
