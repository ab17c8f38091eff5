"""Peak memory of training against tokens: beside the fast path one that forms attention's A (Sec. 3.3)."""

import copy
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from contagg.affinity.base import Affinity, Grid, by_matrix
from contagg.benchmark.cost import peak_bytes
from contagg.figures import PALETTE, new_figure, plain_axes
from contagg.models import create
from contagg.nn.aggregation import affinities

Size = tuple[int, int]
SIZES: tuple[Size, ...] = ((224, 224), (320, 320), (448, 448), (800, 1333))
FAST, FORMED = "fast", "forms A"
MOST = 0.7
"""Of the memory that is free: what is expected to need more could end the process, and what it has measured."""


@dataclass(frozen=True, kw_only=True)
class MemoryRow:
    """Forward and backward of one image in fp32, weights and gradients aside; no peak where it cannot run."""

    model: str
    path: str
    height: int
    width: int
    tokens: int
    peak_megabytes: float | None
    note: str = ""


def form(affinity: Affinity) -> Affinity:
    """Make an affinity aggregate by its matrix, N x N a head."""

    def forward(values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        return by_matrix(affinity, values, tokens, grid, mask)

    affinity.forward = forward  # type: ignore[method-assign]
    return affinity


def forming(model: nn.Module) -> nn.Module:
    """A copy of one of our networks in which every dense dynamic affinity forms its A."""
    formed = copy.deepcopy(model)
    for affinity in affinities(formed):
        for term, _ in affinity.terms():
            if term.dynamic and term.local is None:
                form(term)
    return formed


def memory(
    names: Iterable[str], device: torch.device, sizes: Sequence[Size] = SIZES, available: int | None = None
) -> Iterator[MemoryRow]:
    """A row for each network, size and path. What would not fit, by N^2 from the size before, is not tried.

    Args:
        names: Networks of ours.
        sizes: (height, width), ascending.
        available: Bytes; None asks the device.
    """
    for name in names:
        for path in (FAST, FORMED):
            model = create(name).train().to(device)
            model = forming(model) if path == FORMED else model
            yield from _grow(model, name, path, device, sizes, available)


def _grow(
    model: nn.Module, name: str, path: str, device: torch.device, sizes: Sequence[Size], available: int | None
) -> Iterator[MemoryRow]:
    known: tuple[float, int] | None = None  # megabytes and tokens of the size before
    for height, width in sizes:
        room = available or _available(device)
        tokens = -(-height // 4) * -(-width // 4)  # of the first stage, at stride 4
        peak, note = None, ""
        growth = 2 if path == FORMED else 1
        needed = 1e6 * known[0] * (tokens / known[1]) ** growth if known else 0.0
        if needed > MOST * room:
            note = f"would need {needed / 1e9:.1f} GB of {room / 1e9:.1f}"
        else:
            peak = _peak(model, (height, width), device) / 1e6
            known = peak, tokens
        yield MemoryRow(
            model=name, path=path, height=height, width=width, tokens=tokens, peak_megabytes=peak, note=note
        )


def _peak(model: nn.Module, size: Size, device: torch.device) -> int:
    images = torch.randn(1, 3, *size, device=device)
    # BatchNorm refuses a single value a channel, which the smallest images have in the last stage.
    images = images.expand(2 if min(size) <= 32 else 1, -1, -1, -1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return peak_bytes(lambda: model(images).sum().backward(), device)


def _available(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    information = Path("/proc/meminfo")
    if information.is_file():  # what is free and what the system keeps of files, which it gives up
        fields = dict(line.split(":") for line in information.read_text().splitlines())
        return 1024 * int(fields["MemAvailable"].split()[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def memory_against_tokens(rows: Iterable[MemoryRow], title: str) -> Figure:
    """Both axes logarithmic, one line per network and path; where a line ends, the next size did not fit."""
    rows = list(rows)
    figure = new_figure(6.4, 4.4)
    axes = figure.subplots()
    networks = list(dict.fromkeys(row.model for row in rows))
    for name, path in dict.fromkeys((row.model, row.path) for row in rows):
        line = [row for row in rows if (row.model, row.path) == (name, path)]
        peaks = [float("nan") if row.peak_megabytes is None else row.peak_megabytes for row in line]
        style = "--" if path == FORMED else "-"
        colour = PALETTE[networks.index(name) % len(PALETTE)]
        axes.plot([row.tokens for row in line], peaks, style, marker="o", color=colour, label=f"{name}, {path}")
    sizes = {row.tokens: f"{row.tokens:,}\n{row.height} x {row.width}" for row in rows}
    axes.set(xscale="log", yscale="log")
    plain_axes(axes, "tokens of the first stage", "peak of a training step, MB", title)
    axes.set_xticks(list(sizes), list(sizes.values()), fontsize=8)
    axes.minorticks_off()
    axes.legend(fontsize=8, frameon=False)
    return figure
