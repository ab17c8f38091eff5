"""What the three converters share: where they may write."""

from pathlib import Path

import pytest

from contagg.cli import main


@pytest.mark.parametrize("command", ["from-voc", "from-yolo", "from-coco"])
@pytest.mark.parametrize("output", [".", "out", "train/out", "../link/out"])
def test_nothing_is_written_into_what_is_read(
    command: str, output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The next call would take the images of the first for its own, each twice."""
    root = tmp_path / "cells"
    root.mkdir()
    (tmp_path / "link").symlink_to(root)
    with pytest.raises(SystemExit) as left:
        main(["data", command, str(root), "-o", str(root / output)])
    said = capsys.readouterr().err
    assert left.value.code == 2 and said.count("\n") == 1
    assert f"--output {root / output} lies in {root}, which is read" in said and "give a folder outside" in said
    assert not list(root.iterdir()) and sorted(path.name for path in tmp_path.iterdir()) == ["cells", "link"]
