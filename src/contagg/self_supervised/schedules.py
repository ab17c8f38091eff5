"""What DINO sets at every step: learning rate, weight decay, the teacher's momentum and temperature. No state."""

import math
from dataclasses import dataclass

from torch.optim import Optimizer


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """From `start` to `end` over `steps`, after a linear rise from 0 over the first `warmup` of them.

    As in the original the value at step `steps` would be `end`: the last step is just short of it.
    """

    start: float
    end: float
    steps: int
    warmup: int = 0

    def __call__(self, step: int) -> float:
        """The value at a step, 0 first."""
        if step < self.warmup:
            return self.start * step / max(self.warmup - 1, 1)
        done = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * min(done, 1.0))) / 2


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """The teacher's: linear from `start` to `end`, an equal step an epoch, over `warmup_epochs`; then `end`."""

    start: float
    end: float
    warmup_epochs: int = 0

    def __call__(self, epoch: int) -> float:
        """The value in an epoch, 0 first."""
        if epoch >= self.warmup_epochs:
            return self.end
        return self.start + (self.end - self.start) * epoch / max(self.warmup_epochs - 1, 1)


class OptimizerSchedule:
    """Sets the rate of all groups, and the weight decay of those that had any, at each step."""

    def __init__(self, optimizer: Optimizer, learning_rate: Cosine, weight_decay: Cosine) -> None:
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.groups = optimizer.param_groups
        self.decayed = [group for group in self.groups if group["weight_decay"] > 0]

    def step(self, epoch: int) -> None:
        """Nothing is set by epoch."""

    def step_update(self, num_updates: int) -> None:
        """Set the values of the step that comes after `num_updates` of them."""
        for group in self.groups:
            group["lr"] = self.learning_rate(num_updates)
        for group in self.decayed:
            group["weight_decay"] = self.weight_decay(num_updates)
