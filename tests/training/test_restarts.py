"""What torchrun's environment asks for; that a killed process comes back is in test_processes.py."""

import pytest
import torch

from contagg.errors import UserError
from contagg.training.restarts import join_attempt

UNDER_TORCHRUN = {
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "TORCHELASTIC_MAX_RESTARTS": "1",
    "LOCAL_WORLD_SIZE": "2",
    "WORLD_SIZE": "4",
}


def test_several_machines_that_share_a_store_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in UNDER_TORCHRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="several machines needs TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in the env"):
        join_attempt(on_gpu=False)


@pytest.mark.parametrize("change", [{"TORCHELASTIC_USE_AGENT_STORE": "False"}, {"TORCHELASTIC_MAX_RESTARTS": "0"}])
def test_nothing_is_done_where_no_store_outlives_its_processes(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, str]
) -> None:
    for name, value in (UNDER_TORCHRUN | change).items():
        monkeypatch.setenv(name, value)
    join_attempt(on_gpu=False)
    assert not torch.distributed.is_initialized()
