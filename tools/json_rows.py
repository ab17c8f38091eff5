"""Lists of rows in a JSON file, one row a key, that a command adds to run by run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contagg.errors import UserError
from contagg.files import write_output


def read_rows(path: Path) -> list[dict[str, Any]]:
    """None where there is no file. UserError for a file of something else."""
    if not path.is_file():
        return []
    try:
        rows = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} holds no rows: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} holds no rows: a list of keys and values is expected")
    return rows


def put_row(path: Path, row: dict[str, Any], key: Callable[[dict[str, Any]], Any]) -> None:
    """Write a row in the place of the one with its key, among what other processes have added by now."""
    rows = [each for each in read_rows(path) if key(each) != key(row)]
    write_output(path, json.dumps(sorted([*rows, row], key=key), indent=1).encode())
