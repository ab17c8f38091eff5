"""Training states in files: written whole or not at all, checked before they are used, never unpickling code."""

import hashlib
import io
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO

from contagg.errors import UserError
from contagg.files import write_atomically

_NAME = re.compile(r"epoch_(\d+)_step_(\d+)\.ckpt")


def checkpoint_name(epoch: int, step: int) -> str:
    """`epoch` is the one to go on in (0 first), `step` the optimizer steps taken; names sort by age."""
    return f"epoch_{epoch:05d}_step_{step:09d}.ckpt"


def step_of(path: Path) -> int:
    """The optimizer steps taken, from a training state's name."""
    return int(path.stem.rpartition("_")[2])


def checkpoints(folder: Path) -> list[Path]:
    """The training states in `folder`, oldest first."""
    return sorted(path for path in folder.glob("*.ckpt") if _NAME.fullmatch(path.name))


def sweep_temporaries(folder: Path) -> None:
    """Remove what a killed process left half written."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's reader and writer of training states.

    A failed write is kept in `failure` and not raised: only the first process writes, and all must decide together.
    `alongside`, where set, is given the state first and writes what goes with it; if it fails, so does the save.
    """

    def __init__(self) -> None:
        self.failure: OSError | None = None
        self.alongside: Callable[[Mapping[str, Any]], None] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a training state; sets `failure` to the error, or to None."""
        # Through memory, because torch's own writer turns a full disk into an error without a cause.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        content = buffer.getvalue()
        try:
            if self.alongside is not None:
                self.alongside(checkpoint)
            # torch passes over what follows its archive; the archive's own checksums do not cover all of its headers.
            write_atomically(Path(path), content + hashlib.sha256(content).digest())
            self.failure = None
        except OSError as error:
            self.failure = error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a training state onto the CPU. Always restricted to tensors and plain values."""
        return torch.load(path, map_location="cpu", weights_only=True)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a training state if it is there."""
        Path(path).unlink(missing_ok=True)


def damage(path: Path) -> str | None:
    """Why a training state cannot be used; None for a sound one."""
    try:
        if not path.is_file():
            return "it is no regular file"  # to open a FIFO would take forever
        with path.open("rb") as file:
            length = file.seek(0, os.SEEK_END) - hashlib.sha256().digest_size
            file.seek(0)
            digest = hashlib.sha256()
            while length > 0 and (block := file.read(min(length, 1 << 20))):
                digest.update(block)
                length -= len(block)
            return None if file.read() == digest.digest() else "its checksum does not match"
    except OSError as error:
        return error.strerror or str(error)


def data_of_states(folder: Path) -> Mapping[str, Any] | None:
    """The fingerprint of the data that the states in `folder` were made with, as a state dict; None without states.

    Raises:
        UserError: there are training states, and none can be used.
    """
    path, _ = newest_sound_checkpoint(folder)
    if path is None:
        return None
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)["callbacks"]
        return next(state["data"] for state in saved.values() if "data" in state)
    except Exception as error:  # a stranger's file may hold anything
        raise UserError(f"the training state {path} does not say which data it was made with") from error


def newest_sound_checkpoint(folder: Path) -> tuple[Path | None, list[tuple[Path, str]]]:
    """The newest usable training state (None in an empty folder), and the damaged ones passed over, each with why.

    Raises:
        UserError: there are training states, and none can be used.
    """
    passed_over: list[tuple[Path, str]] = []
    for path in reversed(checkpoints(folder)):
        reason = damage(path)
        if reason is None:
            return path, passed_over
        passed_over.append((path, reason))
    if passed_over:
        damaged = "; ".join(f"{path}: {reason}" for path, reason in passed_over)
        raise UserError(f"no training state can be used ({damaged}); remove {folder.parent} to start again")
    return None, []
