"""The learning rate by epoch as DeiT sets it: warm-up, then a cosine that the warm-up does not shift."""

import torch
from timm.scheduler.cosine_lr import CosineLRScheduler

from contagg.training.config import OptimizationConfig


def cosine_schedule(optimizer: torch.optim.Optimizer, config: OptimizationConfig) -> CosineLRScheduler:
    """timm's scheduler: `step(epoch)` sets the rate for the whole of that epoch."""
    return CosineLRScheduler(
        optimizer,
        t_initial=config.epochs,
        lr_min=config.minimum_learning_rate,
        warmup_t=config.warmup_epochs,
        warmup_lr_init=config.warmup_learning_rate,
    )
