"""`contagg data from-...` as tests run it: into a folder `out` beside the one that is read."""

import json
from pathlib import Path
from typing import Any

import pytest

from contagg.cli import main


def converted(command: str, root: Path, *options: str, out: Path | None = None) -> dict[str, dict[str, Any]]:
    """The JSON of each split."""
    out = out or root.parent / "out"
    main(["data", command, str(root), "-o", str(out), *options])
    return {path.stem: json.loads(path.read_text()) for path in (out / "annotations").iterdir()}


def failure(command: str, root: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """The one line of what is refused, of which nothing is left."""
    with pytest.raises(SystemExit) as left:
        converted(command, root, *options)
    said = capsys.readouterr().err
    assert left.value.code == 2 and said.count("\n") == 1
    assert not (root.parent / "out").exists() and not (root.parent / ".out.partial").exists()
    return said
