"""What a batch would have cost with other blocks closed: the same images, varied alike, and nothing learnt."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import nn

Setting = Callable[[], None]
"""Opens and closes places."""


@contextmanager
def unchanged(task: nn.Module) -> Iterator[None]:
    """Whatever its passes do to its buffers, such as BatchNorm's statistics, is undone afterwards."""
    before = {name: buffer.detach().clone() for name, buffer in task.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in task.named_buffers():
                buffer.copy_(before[name])


@torch.no_grad()
def losses(
    task: LightningModule, batch: Any, batch_idx: int, settings: Sequence[Setting], reseed: Setting
) -> list[float]:
    """The loss of a training step for each of several settings, which is given one after the other.

    Args:
        batch: On the task's device; it stays as it is, whatever a step does with it.
        reseed: Called before each, so that all draw the same, and once more at the end.
    """
    found = []
    for setting in settings:
        setting()
        with unchanged(task):
            reseed()
            outputs: Any = task.training_step(copy.deepcopy(batch), batch_idx)
            found.append(float(outputs["loss"]))
    reseed()
    return found
