"""Which weights are kept for use, also when a disk did not take some of them."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from contagg.checkpoints import weights
from contagg.checkpoints.weights import read_weights
from contagg.data.fingerprint import Fingerprint
from contagg.errors import UserError
from contagg.training.checkpoint import AtomicCheckpointIO
from contagg.training.guards import StepGuard
from contagg.training.run_folder import RunFolder
from contagg.training.saving import KeptWeights, SaveState
from contagg.training.signals import StopSignals


def saving(folder: Path, keep_best: int) -> SaveState:
    metrics = SimpleNamespace(rows=[], write=lambda: None)
    kept = KeptWeights(folder, metrics, "accuracy", "model.", {}, keep_best)
    guard = StepGuard(StopSignals(), 60)
    return SaveState(RunFolder(folder), AtomicCheckpointIO(), guard, kept, Fingerprint([]), keep_last=1)


def end_epochs(saver: SaveState, *accuracies: float) -> None:
    """Epochs end with these accuracies; the weights are all equal to the epoch's number."""
    for accuracy in accuracies:
        epoch = len(saver.weights.metrics.rows) + 1
        saver.weights.metrics.rows.append({"epoch": epoch, "accuracy": accuracy})
        saver.weights.write({"state_dict": {"model.weight": torch.full((2, 3), float(epoch))}})


def epochs_in(folder: Path) -> dict[str, int]:
    """Each weights file's epoch, which its metadata and its weights must agree on."""
    found = {}
    for path in folder.glob("*.safetensors"):
        state, metadata = read_weights(path)
        assert torch.equal(state["weight"], torch.full((2, 3), float(metadata["epoch"])))
        found[path.stem] = metadata["epoch"]
    return found


def test_the_best_are_kept_and_of_equals_the_first(tmp_path: Path) -> None:
    end_epochs(saving(tmp_path, keep_best=2), 0.5, 0.75, 0.25, 0.75, 0.625)
    assert epochs_in(tmp_path) == {"best": 2, "last": 5, "best_epoch_00002": 2, "best_epoch_00004": 4}


def test_a_lower_limit_holds_in_a_folder_that_had_a_higher_one(tmp_path: Path) -> None:
    end_epochs(saving(tmp_path, keep_best=3), 0.5, 0.75)
    end_epochs(saving(tmp_path, keep_best=1), 0.5)
    assert epochs_in(tmp_path) == {"best": 1, "last": 1}


def test_of_an_epoch_whose_weights_were_lost_none_is_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next best stands in, now and when the run goes on."""

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    saver = saving(tmp_path, keep_best=2)
    with monkeypatch.context() as disk:
        disk.setattr(weights, "write_atomically", full)
        with pytest.raises(OSError, match="No space left"):
            end_epochs(saver, 0.9)
    end_epochs(saver, 0.5)
    assert epochs_in(tmp_path) == {"best": 2, "last": 2, "best_epoch_00002": 2}
    gone_on = saving(tmp_path, keep_best=2)
    gone_on.weights.metrics.rows = saver.weights.metrics.rows
    gone_on.load_state_dict(saver.state_dict())
    end_epochs(gone_on, 0.6)
    assert epochs_in(tmp_path) == {"best": 3, "last": 3, "best_epoch_00002": 2, "best_epoch_00003": 3}


def test_a_state_that_does_not_say_of_which_data_is_refused(tmp_path: Path) -> None:
    saver = saving(tmp_path, keep_best=1)
    saver.on_load_checkpoint(None, None, {"callbacks": {saver.state_key: saver.state_dict()}})
    with pytest.raises(UserError, match="does not say which data and recipe it was made with"):
        saver.on_load_checkpoint(None, None, {"callbacks": {"MovingAverage": {}}})
