"""What a network costs: parameters, and multiply-adds of one image."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def parameter_count(model: nn.Module, trainable_only: bool = False) -> int:
    """The number of parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)


def multiply_adds(model: nn.Module, size: tuple[int, int] = (224, 224), channels: int = 3) -> int:
    """Multiply-adds of one image of (height, width): all products of matrices and convolutions, attention's included.

    What the paper and most others call FLOPs. Counted from the shapes that a forward pass on the meta device meets,
    so that any size costs nothing.
    """
    was_training = model.training
    model = model.eval()
    tensors = {name: t.to("meta") for name, t in [*model.named_parameters(), *model.named_buffers()]}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        torch.func.functional_call(model, tensors, torch.empty(1, channels, *size, device="meta"))
    model.train(was_training)
    return counter.get_total_flops() // 2
