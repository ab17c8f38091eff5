"""Processes that torchrun starts again after one of them died (`--max-restarts`)."""

import os

import torch
from torch.distributed import PrefixStore, TCPStore

from contagg.errors import UserError

OWN_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
"""Set to 1, it makes torchrun set up a new store for every attempt."""


def join_attempt(on_gpu: bool) -> None:
    """Join the process group of this attempt, where torchrun would have it meet the dead ones of the attempt before.

    torchrun (2.15) keeps one store over all attempts, with the addresses in it; a process that reads an old one
    before its peer has written the new one waits forever. So each attempt gets names of its own. Machines count their
    attempts apart, so several of them need a store of torchrun's for each.

    Raises:
        UserError: several machines with one store.
    """
    environment = os.environ
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or environment.get("TORCHELASTIC_MAX_RESTARTS") == "0":
        return
    if environment["LOCAL_WORLD_SIZE"] != environment["WORLD_SIZE"]:
        raise UserError(f"torchrun --max-restarts on several machines needs {OWN_STORE}=1 in the environment of each")
    world_size = int(environment["WORLD_SIZE"])
    store = TCPStore(environment["MASTER_ADDR"], int(environment["MASTER_PORT"]), world_size, is_master=False)
    torch.distributed.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=PrefixStore(f"attempt {environment['TORCHELASTIC_RESTART_COUNT']}", store),
        rank=int(environment["RANK"]),
        world_size=world_size,
    )
