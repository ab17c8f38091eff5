"""What this machine cannot do is said before anything is trained or started."""

import warnings
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.utilities.data import has_len_all_ranks

from contagg.errors import UserError
from contagg.training import engine
from contagg.training.config import RunConfig

BAD = [
    ({"accelerator": "cpu", "devices": 3}, "run.devices is 3, but this machine has 2 CPU cores"),
    ({"accelerator": "auto", "devices": 64}, "run.devices is 64, but this machine has 2 CPU cores"),
    ({"accelerator": "cuda", "devices": 2}, "run.devices is 2, but this machine has 0 GPUs"),
    ({"accelerator": "mps"}, "run.accelerator is mps, but this machine has no Apple GPU"),
    ({"precision": "fp16"}, "run.precision fp16 needs a GPU"),
    ({"synchronize_batchnorm": True}, "run.synchronize_batchnorm needs GPUs"),
]


@pytest.fixture(autouse=True)
def two_cores_and_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(engine.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(engine.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(engine.torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize(("options", "message"), BAD, ids=[message for _, message in BAD])
def test_what_is_not_there(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        engine.check_machine(RunConfig(folder="run", **options))


def test_as_many_processes_as_cores() -> None:
    engine.check_machine(RunConfig(folder="run", accelerator="cpu", devices=2))


class Stream(torch.utils.data.IterableDataset):
    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[int]:
        return iter(range(2))


def test_lightnings_hints_about_what_is_meant_are_not_passed_on() -> None:
    alone = SimpleNamespace(root_device="cpu", reduce=lambda count, reduce_op: count)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        engine._quiet_lightning()
        assert has_len_all_ranks([], alone) and has_len_all_ranks(torch.utils.data.DataLoader(Stream()), alone)
    assert not said
