"""Training states in files: whole or not at all; damage is always noticed; code in them is never run."""

import errno
import os
import pickle
import tempfile
from pathlib import Path

import pytest
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from contagg.checkpoints.weights import save_weights
from contagg.errors import UserError
from contagg.training.checkpoint import (
    AtomicCheckpointIO,
    checkpoint_name,
    checkpoints,
    damage,
    newest_sound_checkpoint,
    sweep_temporaries,
)

STATE = {"state_dict": {"weight": torch.arange(35.0).view(5, 7)}, "rows": [{"epoch": 1, "loss": 0.5}]}


def save(path: Path, state: object = STATE) -> Path:
    writer = AtomicCheckpointIO()
    writer.save_checkpoint(state, path)
    assert writer.failure is None
    return path


def test_round_trip_and_torch_alone_can_read_it(tmp_path: Path) -> None:
    path = save(tmp_path / "a.ckpt")
    for state in (AtomicCheckpointIO().load_checkpoint(path), torch.load(path, weights_only=True)):
        assert torch.equal(state["state_dict"]["weight"], STATE["state_dict"]["weight"])
        assert state["rows"] == STATE["rows"]
    assert damage(path) is None
    assert list(tmp_path.iterdir()) == [path]


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    content = save(tmp_path / "a.ckpt").read_bytes()
    broken = tmp_path / "b.ckpt"
    for place in range(len(content)):
        broken.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        assert damage(broken) == "its checksum does not match", place


@pytest.mark.parametrize("kept", [0, 1, 31, 32, 33, 500, -1])
def test_every_truncation_is_noticed(tmp_path: Path, kept: int) -> None:
    path = save(tmp_path / "a.ckpt")
    path.write_bytes(path.read_bytes()[:kept])
    assert damage(path) is not None


def test_newest_sound_one_is_taken_and_the_damaged_are_named(tmp_path: Path) -> None:
    old, middle, new = (save(tmp_path / checkpoint_name(*place)) for place in ((0, 9), (1, 10), (1, 100)))
    assert checkpoints(tmp_path) == [old, middle, new]
    assert newest_sound_checkpoint(tmp_path) == (new, [])
    new.write_bytes(new.read_bytes()[:-1])
    middle.write_bytes(b"")
    path, passed_over = newest_sound_checkpoint(tmp_path)
    assert path == old
    assert [name for name, _ in passed_over] == [new, middle]
    old.write_bytes(b"nothing")
    with pytest.raises(UserError, match=f"no training state can be used .*{new.name}.*{old.name}"):
        newest_sound_checkpoint(tmp_path)


def test_an_empty_folder_has_none(tmp_path: Path) -> None:
    (tmp_path / "epoch_last.ckpt").write_bytes(b"not one of ours")
    assert newest_sound_checkpoint(tmp_path) == (None, [])


def test_a_failed_write_leaves_the_old_file_and_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.ckpt")
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    writer = AtomicCheckpointIO()
    writer.save_checkpoint({"other": 1}, path)
    assert isinstance(writer.failure, OSError)
    assert writer.failure.errno == errno.ENOSPC
    assert writer.failure.filename == str(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_temporary_folder_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From another file system a file is not renamed but copied, and a kill leaves half of it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError):
        TorchCheckpointIO().save_checkpoint(STATE, tmp_path / "lightning.ckpt")  # Lightning's own goes through it
    assert damage(save(tmp_path / "a.ckpt")) is None
    save_weights(tmp_path / "a.safetensors", STATE["state_dict"], {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ckpt", "a.safetensors"]


def test_what_goes_alongside_fails_the_save(tmp_path: Path) -> None:
    writer = AtomicCheckpointIO()
    writer.alongside = lambda state: (tmp_path / "missing" / "file").write_bytes(b"")
    writer.save_checkpoint(STATE, tmp_path / "a.ckpt")
    assert isinstance(writer.failure, FileNotFoundError)
    assert not (tmp_path / "a.ckpt").exists()


class Harm:
    def __reduce__(self) -> tuple:
        return (os.mkdir, ("harm-was-done",))


def test_code_in_a_state_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Harm()}, tmp_path / "a.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    assert not Path("harm-was-done").exists()


def test_half_written_files_are_swept(tmp_path: Path) -> None:
    kept = save(tmp_path / checkpoint_name(0, 1))
    (tmp_path / ".epoch_00000_step_000000002.ckpt.123.tmp").write_bytes(b"half")
    sweep_temporaries(tmp_path)
    assert list(tmp_path.iterdir()) == [kept]
