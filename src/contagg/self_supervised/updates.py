"""What happens around DINO's optimizer step, in its order: clip each tensor, freeze the prototypes, step, teacher."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def clip_each(parameters: Iterable[nn.Parameter], limit: float) -> None:
    """Scale down each gradient whose own norm is above `limit`: the original does not clip the norm of all."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if gradients:
        norms = torch._foreach_norm(gradients)
        torch._foreach_mul_(gradients, [(limit / (norm + 1e-6)).clamp(max=1.0) for norm in norms])


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
