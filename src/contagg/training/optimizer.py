"""Parameter groups and the optimizer (appendix A.1: AdamW as in DeiT)."""

from typing import Any

import torch
from timm.optim import param_groups_weight_decay
from torch import nn

from contagg.training.config import OptimizationConfig


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: with weight decay, and without.

    Norms, biases and gates, that is all of at most one dimension, have none, nor has what the model's
    `no_weight_decay()` names. Parameters that ask for no gradient are in neither.
    """
    named = getattr(model, "no_weight_decay", set)
    return param_groups_weight_decay(model, weight_decay, no_weight_decay_list=named())


def build_optimizer(model: nn.Module, config: OptimizationConfig, world_size: int) -> torch.optim.AdamW:
    """AdamW at the peak learning rate of Eq. 9 for the real total batch."""
    return torch.optim.AdamW(
        parameter_groups(model, config.weight_decay),
        lr=config.peak_learning_rate(world_size),
        betas=config.betas,
        eps=config.epsilon,
    )


def describe_groups(optimizer: torch.optim.Optimizer) -> str:
    """One line: how many tensors and numbers have which weight decay."""
    parts = [
        f"{len(group['params'])} tensors ({sum(p.numel() for p in group['params']):,} numbers) "
        f"with weight decay {group['weight_decay']:g}"
        for group in optimizer.param_groups
    ]
    return f"{type(optimizer).__name__}: {', '.join(parts)}"
