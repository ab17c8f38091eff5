"""Where a network runs, and whether what is in it and what comes out of it are numbers."""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from contagg.errors import UserError


def processes() -> int:
    """How many train together; 1 where this one is alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def choose_device(name: str) -> torch.device:
    """`auto` is a GPU if there is one. UserError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name} cannot be used: {' '.join(str(error).split())[:100]}") from error
    return device


def require_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """UserError that names the first tensor with NaN or infinity in it: scores of such a network mean nothing.

    >>> require_finite({"logits": torch.tensor([0.5, float("nan")])}, "model.safetensors")
    Traceback (most recent call last):
    contagg.errors.UserError: model.safetensors: logits is not finite: 1 of 2 numbers are NaN or infinite
    """
    for name, tensor in tensors.items():
        wrong = int((~torch.isfinite(tensor.detach())).sum())
        if wrong:
            raise UserError(f"{where}: {name} is not finite: {wrong} of {tensor.numel()} numbers are NaN or infinite")
