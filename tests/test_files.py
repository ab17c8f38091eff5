"""A file is on the disk before its name is, and the name before anyone goes on."""

import os
import stat
from pathlib import Path

import pytest

from contagg.errors import UserError
from contagg.files import whole_folder, write_atomically


def test_content_then_name_then_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut after any of these leaves the old file or the new one, and after the last the new one."""
    done: list[str] = []
    flush, rename = os.fsync, Path.replace

    def flushed(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        done.append("folder" if is_folder else f"content {os.fstat(descriptor).st_size}")
        flush(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        done.append("name")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", renamed)
    write_atomically(tmp_path / "a", b"12345")
    assert done == ["content 5", "name", "folder"]
    assert (tmp_path / "a").read_bytes() == b"12345" and list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "old").touch()
    with whole_folder(tmp_path / "out") as beside:
        (beside / "a").touch()
    assert [path.name for path in tmp_path.glob("**/*")] == ["out", "a"]


@pytest.mark.parametrize(
    ("error", "raised"), [(OSError(28, "No space left on device"), UserError), (KeyError(), KeyError)]
)
def test_of_a_folder_that_failed_nothing_is_left(error: Exception, raised: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(raised), whole_folder(tmp_path / "out") as beside:
        (beside / "a").touch()
        raise error
    assert not list(tmp_path.iterdir())
