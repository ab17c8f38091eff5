"""Negative control of resuming: whatever is dropped from a saved state, or from what is made from a key, is noticed."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fit_processes import Runs, differences
from kills import ALL, die_after_step

from contagg.data import sampling
from contagg.data.sampling import KeyedSampler
from contagg.training.checkpoint import AtomicCheckpointIO
from contagg.training.guards import SeedSteps
from contagg.training.schedules import SetSchedules

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A whole run, and one killed in the midst of its second epoch of three."""
    runs = Runs(tmp_path_factory.mktemp("killed"))
    assert runs.fit("whole", *ALL) == 0, runs.output
    assert runs.fit("cut", *ALL, meddle=die_after_step(6)) == -signal.SIGKILL, runs.output
    return runs


def newest(folder: Path) -> Path:
    return max((folder / "checkpoints").glob("*.ckpt"))


def fit_loop(state: dict) -> dict:
    return state["loops"]["fit_loop"]


def at_its_start(progress: dict) -> None:
    for part in (progress["total"], progress["current"]):
        part.update(dict.fromkeys(part, 0))


PIECES: dict[str, Callable[[dict], object]] = {
    "weights": lambda state: state["current_model_state"].update(state["state_dict"]),
    "average": lambda state: state["state_dict"].update(state["current_model_state"]),
    "updates of the average": lambda state: state["averaging_state"]["n_averaged"].zero_(),
    "last update of the average": lambda state: state["callbacks"]["MovingAverage"].update(latest_update_step=0),
    "optimizer": lambda state: state["optimizer_states"][0]["state"].clear(),
    "sums of the epoch": lambda state: state["callbacks"]["EpochMetrics"]["sums"].clear(),
    "batches of the epoch": lambda state: state["callbacks"]["EpochMetrics"].update(batches=0),
    "rows": lambda state: state["callbacks"]["EpochMetrics"]["rows"].clear(),
    "identity": lambda state: state["callbacks"].pop("SaveState"),
    "place in the data": lambda state: fit_loop(state)["state_dict"].pop("combined_loader"),
    "batches done": lambda state: at_its_start(fit_loop(state)["epoch_loop.batch_progress"]),
    "epochs done": lambda state: at_its_start(fit_loop(state)["epoch_progress"]),
    "steps taken": lambda state: fit_loop(state)["epoch_loop.automatic_optimization.optim_progress"].clear(),
}

NOT_NEEDED = {
    "epoch": "the loops say it",
    "global_step": "the loops say it",
    "pytorch-lightning_version": "for upgrades",
    "lr_schedulers": "empty: rates are functions of epoch and step",
}


def goes_on_equal(killed: Runs, name: str, meddle: Callable[[], None] = lambda: None) -> bool:
    code = killed.fit(name, *ALL, meddle=meddle)
    rows = [(killed.folder / run / "metrics.csv").read_bytes() for run in ("whole", name)]
    return code == 0 and rows[0] == rows[1] and not differences(killed.state("whole"), killed.state(name))


def copied(killed: Runs, name: str) -> Path:
    return shutil.copytree(killed.folder / "cut", killed.folder / name)


@pytest.mark.parametrize("piece", ["nothing", *PIECES])
def test_each_saved_piece_is_needed(killed: Runs, piece: str) -> None:
    path = newest(copied(killed, piece))
    state = torch.load(path, weights_only=True)
    PIECES.get(piece, lambda state: None)(state)
    AtomicCheckpointIO().save_checkpoint(state, path)
    assert goes_on_equal(killed, piece) == (piece == "nothing"), killed.output


def test_no_piece_is_forgotten_here(killed: Runs) -> None:
    state = torch.load(newest(killed.folder / "cut"), weights_only=True)
    dropped = {"state_dict", "current_model_state", "averaging_state", "optimizer_states", "callbacks", "loops"}
    assert set(state) == dropped | set(NOT_NEEDED)
    assert set(state["callbacks"]) == {"MovingAverage", "EpochMetrics", "SaveState"}
    assert state["lr_schedulers"] == []


def nothing(*_: object) -> None:
    pass


KEYED: dict[str, Callable[[], None]] = {
    "randomness of steps": lambda: setattr(SeedSteps, "on_train_batch_start", nothing),
    "randomness of samples": lambda: setattr(sampling, "seed_sample", nothing),
    "order of an epoch": lambda: setattr(KeyedSampler, "set_epoch", nothing),
    "learning rate": lambda: setattr(SetSchedules, "on_train_batch_start", nothing),
}


@pytest.mark.parametrize("what", KEYED)
def test_what_is_not_saved_but_made_from_a_key_is_needed(killed: Runs, what: str) -> None:
    copied(killed, what)
    assert not goes_on_equal(killed, what, KEYED[what])
