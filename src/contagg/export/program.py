"""A network as one graph of tensor operations, for any batch and any image size."""

import io
import sys
from contextlib import redirect_stderr

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from contagg.errors import UserError
from contagg.nn.aggregation import is_ours
from contagg.nn.fuse import fuse


def export_program(model: nn.Module, input_size: tuple[int, int, int], any_size: bool = True) -> ExportedProgram:
    """`torch.export` of a network, of ours in its inference form (`fuse`), for any batch.

    Args:
        model: A network of ours or timm's, in fp32 on the CPU; it is not changed.
        input_size: (channels, height, width).
        any_size: Serve any height and width above the network's stride, not `input_size` alone.

    Returns:
        A program that takes images (batch, channels, height, width) and gives logits (batch, classes).

    Raises:
        UserError: the network cannot be exported for that.
    """
    model = fuse(model) if is_ours(model) else model
    model.eval()
    channels, height, width = input_size
    dimensions = {0: Dim("batch")}
    if any_size:
        stride: int = model.feature_info[-1]["reduction"]  # type: ignore[index, assignment]
        # One position alone in the last grid would be a graph of its own: torch specialises on 1.
        dimensions |= {2: Dim("height", min=stride + 1), 3: Dim("width", min=stride + 1)}
        height, width = max(height, 2 * stride), max(width, 2 * stride) + stride
    try:
        return graph_of(model, torch.randn(2, channels, height, width), dimensions)
    except UserError as error:
        if not any_size:
            raise
        raise UserError(f"{error}; give --size HEIGHT,WIDTH for a file that serves one size") from error


def graph_of(module: nn.Module, given: Tensor, dimensions: dict[int, Dim]) -> ExportedProgram:
    """`torch.export` of a module of one input, whose `dimensions` stay open. UserError, in one line, where it fails."""
    printed = io.StringIO()
    try:
        with redirect_stderr(printed):  # where it fails it prints the graph so far, of pages
            # Truths that torch cannot prove for all sizes become assertions in the program.
            program = torch.export.export(
                module,
                (given,),
                dynamic_shapes=(dimensions,),
                prefer_deferred_runtime_asserts_over_guards=True,
            )
    except (torch._dynamo.exc.UserError, GuardOnDataDependentSymNode) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{type(module).__name__} cannot be exported: {reason}") from error
    print(printed.getvalue(), end="", file=sys.stderr)
    return program
