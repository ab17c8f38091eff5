"""runs.json as anybody may have left it: whatever of it is read later has the kind that it should have."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from contagg.errors import UserError

FORMAT = 1
LARGEST = 1 << 28
"""Bytes; a thousand runs of a hundred epochs take a few million."""

Fits = Callable[[Any], bool]


def checked_content(path: Path) -> dict[str, Any]:
    """What a file holds. UserError where it is no such file, in one line that names the part."""
    problem = f"{path} is no file of contagg compare"
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            raise UserError(f"{problem}: it is no regular file, or larger than {LARGEST:,} bytes")
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{problem}: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{problem} of format {FORMAT}")
    _check(
        content, {"rows": _is(list), "recipe": _is(dict), "data": _is(dict), "costs": _is(dict)}, problem, "the file"
    )
    for number, row in enumerate(content["rows"], 1):
        _check(row, _ROW, problem, f"row {number}", optional=_ROW_MORE)
    for name, data in content["data"].items():
        _check(data, _DATA, problem, f"data {name!r}")
        for split, state in data["splits"].items():
            _check(state, _SPLIT, problem, f"the {split} images of data {name!r}")
    if content["costs"]:
        _check(content["costs"], {"about": _is(dict), "arms": _is(dict)}, problem, "costs")
        _check(content["costs"]["about"], _ABOUT, problem, "costs")
        for name, costs in content["costs"]["arms"].items():
            _check(costs, _COSTS, problem, f"costs of {name!r}")
    return content


def _check(
    part: Any, keys: Mapping[str, Fits], problem: str, where: str, optional: Mapping[str, Fits] | None = None
) -> None:
    """UserError unless a part is a dictionary whose values fit, where `optional` ones may be missing."""
    for key, fits in keys.items():
        if not isinstance(part, dict) or not fits(part.get(key)):
            raise UserError(f"{problem}: {key!r} of {where} is missing, or of another kind")
    for key, fits in (optional or {}).items():
        if key in part and not fits(part[key]):
            raise UserError(f"{problem}: {key!r} of {where} is of another kind")


def _is(*kinds: type) -> Fits:
    return lambda value: type(value) in kinds


def _are_metrics(found: Any) -> bool:
    """Whether it is lists of numbers, one for each epoch, of which there is one at least."""
    if not isinstance(found, dict) or not isinstance(found.get("epoch"), list):
        return False
    return all(type(epoch) is int for epoch in found["epoch"]) and all(
        isinstance(values, list)
        and len(values) == len(found["epoch"]) > 0
        and all(value is None or type(value) in (int, float) for value in values)
        for values in found.values()
    )


def _are_counts(found: Any) -> bool:
    return isinstance(found, list) and all(type(count) is int for count in found)


_ROW: Mapping[str, Fits] = {
    "arm": _is(str),
    "seed": _is(int),
    "changes": _is(dict),
    "data": _is(str),
    "metrics": _are_metrics,
}
_MAYBE = _is(int, float, type(None))
_ROW_MORE: Mapping[str, Fits] = {
    "monitor": _is(str),
    "seconds": _MAYBE,
    "cpu_seconds": _MAYBE,
    "parameters": _is(int),
    "multiply_adds": _is(int),
    "own_code": _is(dict),
}
_DATA: Mapping[str, Fits] = {"class_names": _is(list), "splits": _is(dict)}
_SPLIT: Mapping[str, Fits] = {"counts": _are_counts}
_ABOUT: Mapping[str, Fits] = {"device": _is(str), "threads": _is(int), "batch": _is(int), "precision": _is(str)}
_COSTS: Mapping[str, Fits] = {"changes": _is(str)} | {
    name: _is(int, float) for name in ("inference_ms", "train_ms", "inference_mb", "train_mb")
}
