"""Parameter groups, the optimizer, and what happens to gradients before its step."""

from collections.abc import Iterable
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from timm.optim import param_groups_weight_decay
from torch import nn
from torch.optim import Optimizer

from contagg.errors import plural
from contagg.training.config import OptimizationConfig
from contagg.training.schedules import window

Scaled = Iterable[tuple[Iterable[nn.Parameter], float]]
"""Parameters, and their learning rate by that of all others; of two entries with a parameter the later holds."""


def param_groups(model: nn.Module, config: OptimizationConfig, scaled: Scaled = ()) -> list[dict[str, Any]]:
    """Groups by weight decay and `lr_scale`, the rate of theirs by the learning rate; those of scale 1 come first.

    Norms, biases and gates, that is all of at most one dimension, and what the model's `no_weight_decay()` names do not
    decay, unless `weight_decay_for` is all. Parameters that ask for no gradient are in none.
    """
    groups: list[dict[str, Any]]
    groups = [{"params": [p for p in model.parameters() if p.requires_grad], "weight_decay": config.weight_decay}]
    if config.weight_decay_for == "matrices":
        named = getattr(model, "no_weight_decay", set)
        groups = param_groups_weight_decay(model, config.weight_decay, no_weight_decay_list=named())
    scales = {id(parameter): scale for parameters, scale in scaled for parameter in parameters}
    split = []
    for group in groups:
        by_scale: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_scale.setdefault(scales.get(id(parameter), 1.0), []).append(parameter)
        split += [{**group, "params": some, "lr_scale": scale} for scale, some in by_scale.items()]
    return sorted(split, key=lambda group: group["lr_scale"] != 1)


def build_optimizer(model: nn.Module, config: OptimizationConfig, scaled: Scaled = ()) -> torch.optim.AdamW:
    """AdamW over `param_groups`. `SetSchedules` sets its rates before every step."""
    return torch.optim.AdamW(param_groups(model, config, scaled), lr=config.lr, betas=config.betas, eps=config.eps)


def describe_groups(optimizer: Optimizer) -> str:
    """One line: how many tensors and numbers have which weight decay, and which rate where it is another."""
    parts = [
        f"{plural(len(group['params']), 'tensor')} ({plural(sum(p.numel() for p in group['params']), 'number')}) "
        f"with weight decay {group['weight_decay']:g}"
        + ("" if group.get("lr_scale", 1) == 1 else f" and {group['lr_scale']:g} of the rate")
        for group in optimizer.param_groups
    ]
    return f"{type(optimizer).__name__}: {', '.join(parts)}"


@torch.no_grad()
def clip_each(parameters: Iterable[nn.Parameter], limit: float) -> None:
    """Scale down each gradient whose own norm is above `limit`, as DINO does: not by the norm of all."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if gradients:
        norms = torch._foreach_norm(gradients)
        torch._foreach_mul_(gradients, [(limit / (norm + 1e-6)).clamp(max=1.0) for norm in norms])


class PrepareGradients(Callback):
    """Makes the gradient the mean over the batches it was gathered from, and clips it.

    Lightning divides each batch's loss by `accumulate`; where an epoch ends with fewer batches, their sum is short of a
    mean by the ones that are missing.
    """

    def __init__(self, config: OptimizationConfig) -> None:
        self.config = config
        self._batches = 1

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note how many batches the step takes."""
        self._batches = window(trainer, batch_idx)

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Gradients are those of all processes, and no more scaled for fp16."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self._batches != trainer.accumulate_grad_batches and gradients:
            torch._foreach_mul_(gradients, trainer.accumulate_grad_batches / self._batches)
        if self.config.max_grad_norm is None:
            return
        if self.config.grad_norm_of == "tensor":
            clip_each(parameters, self.config.max_grad_norm)
        else:
            torch.nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm)
