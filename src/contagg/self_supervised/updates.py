"""What happens around DINO's optimizer step: the teacher's temperature, the prototypes held, the teacher following."""

import torch
from torch import Tensor, nn

from contagg.self_supervised.recipe import DinoConfig


def teacher_temperature(dino: DinoConfig, epoch: int) -> float:
    """In an epoch, 0 first: linear over teacher_warmup_epochs, an equal step an epoch, then teacher_temperature."""
    start, end, warmup = dino.teacher_warmup_temperature, dino.teacher_temperature, dino.teacher_warmup_epochs
    return end if epoch >= warmup else start + (end - start) * epoch / max(warmup - 1, 1)


def drop_gradients(module: nn.Module) -> None:
    """Let the step pass by this module: without a gradient AdamW neither moves nor decays a tensor."""
    for parameter in module.parameters():
        parameter.grad = None


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher <- momentum * teacher + (1 - momentum) * student, for parameters alone.

    BatchNorm's statistics are buffers: the teacher gathers its own.
    """
    mine: list[Tensor] = list(teacher.parameters())
    torch._foreach_mul_(mine, momentum)
    torch._foreach_add_(mine, [parameter.detach() for parameter in student.parameters()], alpha=1 - momentum)
