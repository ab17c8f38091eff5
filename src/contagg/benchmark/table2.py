"""Parameters and multiply-adds: of any networks, and of Table 2's beside what the paper prints."""

import argparse
from dataclasses import dataclass

import torch
from torch import nn

import contagg.models  # noqa: F401  registers the networks
from contagg.benchmark.cost import multiply_adds, parameter_count
from contagg.errors import UserError
from contagg.models import create
from contagg.nn.aggregation import serves_any_size


@dataclass(frozen=True)
class Row:
    """A row of Table 2: parameters in millions, multiply-adds in billions where the paper gives them."""

    paper_name: str
    model: str
    top1: float
    parameters: float
    multiply_adds: float | None = None


ROWS = (
    Row("H-DeiT-S", "container_attention", 81.0, 22.1),
    Row("Conv-3", "container_full_conv3", 79.6, 33.8),
    Row("Group Conv-3", "container_group_conv3", 79.7, 20.5),
    Row("DW-3", "container_dw3", 80.1, 18.7),
    Row("MH-DW-3", "container_mh_dw3", 79.9, 18.6),
    Row("MLP", "container_mlp", 77.5, 50.9),
    Row("MLP-LR", "container_mlp_lr", 78.9, 36.5),
    Row("MH-MLP-LR", "container_mh_mlp_lr", 79.6, 41.6),
    Row("CONTAINER", "container", 82.7, 22.1, 8.1),
    Row("CONTAINER-LIGHT", "container_light", 82.0, 20.0, 3.2),
)


def counts(arguments: argparse.Namespace) -> None:
    """`contagg bench counts`: the networks that are named, for images of one size."""
    width = max(map(len, arguments.models))
    print(f"{'model':<{width}}  {'parameters, M':>13}  {'multiply-adds, G':>16}")
    for name in arguments.models:
        model = _shapes(name)
        try:
            if not serves_any_size(model) and hasattr(model, "set_input_size"):
                model.set_input_size(arguments.size)  # type: ignore[operator]
            cost = multiply_adds(model, arguments.size)
        except (AssertionError, RuntimeError) as error:  # so others refuse a size
            raise UserError(f"{name}, images of {arguments.size}: {' '.join(str(error).split())}") from error
        print(f"{name:<{width}}  {parameter_count(model) / 1e6:>13.2f}  {cost / 1e9:>16.2f}")


def _shapes(name: str) -> nn.Module:
    """A network on the meta device: its 20M weights are not drawn, which would take most of the time."""
    with torch.device("meta"):
        return create(name)


def counted(row: Row) -> tuple[float, float]:
    """Parameters in millions and multiply-adds in billions of our network for a row, at 224 x 224."""
    model = _shapes(row.model)
    return parameter_count(model) / 1e6, multiply_adds(model) / 1e9


def table() -> str:
    """Table 2 as text, one line per row."""
    lines = [
        f"{'Table 2':<16} {'model':<22} {'top-1, paper':>12} {'params M, paper':>16} {'counted':>8} {'off':>7}"
        f" {'GMACs, paper':>13} {'counted':>8} {'off':>7}"
    ]
    for row in ROWS:
        parameters, cost = counted(row)
        line = f"{row.paper_name:<16} {row.model:<22} {row.top1:>12.1f} {row.parameters:>16.1f} {parameters:>8.3f}"
        line += f" {parameters / row.parameters - 1:>+7.2%}"
        if row.multiply_adds is None:
            line += f" {'-':>13} {cost:>8.3f} {'-':>7}"
        else:
            line += f" {row.multiply_adds:>13.1f} {cost:>8.3f} {cost / row.multiply_adds - 1:>+7.2%}"
        lines.append(line)
    return "\n".join(lines)


def run(arguments: object = None) -> None:
    """`contagg bench table2`."""
    print(table())
