"""What a weights file says of itself, read without torch: a command is chosen by it."""

import json
from pathlib import Path
from typing import Any


def weights_in(path: str | Path) -> Path:
    """The weights that a path means: a run folder's best ones, or the file itself."""
    path = Path(path)
    return path / "checkpoints" / "best.safetensors" if path.is_dir() else path


def task_of(path: str | Path) -> str | None:
    """The task in the header of a run's weights; None for any other file, also a broken one: who reads it says why."""
    found = weights_in(path)
    if found.suffix != ".safetensors" or not found.is_file():
        return None
    try:
        with found.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: Any = json.loads(file.read(min(length, 100_000_000)))
        return json.loads(header["__metadata__"]["contagg"])["task"]
    except (OSError, ValueError, KeyError, TypeError, MemoryError):
        return None
