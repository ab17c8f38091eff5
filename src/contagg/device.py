"""Where a network runs."""

import torch

from contagg.errors import UserError


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
