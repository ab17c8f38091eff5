"""What serves each part of a block of CONTAINER-LIGHT best: the layout of a depthwise convolution, a projection as a
matrix product or as a 1 x 1 convolution, the MLP whole or in slices, what GELU costs, attention with and without A.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from timm.layers import Mlp
from torch import Tensor, nn

from contagg.affinity.attention import SelfAttention
from contagg.affinity.base import Grid, as_map, as_tokens
from contagg.affinity.depthwise import depthwise
from contagg.benchmark.cost import Work, interleaved, keep_freed_memory
from contagg.benchmark.variants import DTYPES, Setting
from contagg.models import CONFIGS
from contagg.nn.fuse import Projection, SlicedMlp
from tools.memory import form

Ways = Mapping[str, Callable[[Tensor], Tensor]]
"""Ways to compute a part from tokens (B, N, C); all but "without GELU" give the same."""


@dataclass(frozen=True, kw_only=True)
class KernelRow:
    """One way of one part in one stage; `of_first` is by the first way of that part in the same rounds."""

    part: str
    stage: int
    tokens: int
    channels: int
    precision: str
    passes: str
    way: str
    milliseconds: float
    of_first: float


def kernels(setting: Setting, rounds: int = 7) -> list[KernelRow]:
    """A row for each part, stage, way, and for the forward pass alone and with the backward pass."""
    config = CONFIGS["container_light"]
    keep_freed_memory()  # otherwise whichever way comes first pays for new pages
    rows = []
    for stage, (grid, width) in enumerate(zip(config.grids((setting.size,) * 2), config.embed_dims, strict=True), 1):
        for part, ways in parts(width, grid, setting, "attention" in str(config.affinity[stage - 1])).items():
            tokens = torch.randn(setting.batch, grid[0] * grid[1], width)
            tokens = tokens.to(setting.device, DTYPES[setting.precision])
            for passes in ("forward", "forward and backward"):
                works = {way: _work(compute, tokens, passes != "forward") for way, compute in ways.items()}
                seconds = interleaved(works, rounds, setting.device)
                first = next(iter(seconds.values())).median
                rows += [
                    KernelRow(
                        part=part,
                        stage=stage,
                        tokens=tokens.shape[1],
                        channels=width,
                        precision=setting.precision,
                        passes=passes,
                        way=way,
                        milliseconds=1000 * spread.median,
                        of_first=spread.median / first,
                    )
                    for way, spread in seconds.items()
                ]
    return rows


def parts(width: int, grid: Grid, setting: Setting, attends: bool) -> dict[str, Ways]:
    """The parts of a block of `width` channels on `grid`, and the ways to compute each."""
    linear, mlp = nn.Linear(width, width), Mlp(width, 4 * width)
    linear_mlp = Mlp(width, 4 * width, act_layer=nn.Identity)
    attention, convolution = SelfAttention(width), nn.Conv2d(width, width, 5, padding=2, groups=width)
    sliced, projection = SlicedMlp(mlp), Projection(linear)
    for module in (linear, mlp, linear_mlp, attention, convolution, sliced, projection):
        module.to(setting.device, DTYPES[setting.precision])
    formed = form(copy.deepcopy(attention))
    ways: dict[str, Ways] = {
        "projection": {
            "matrix product": linear,
            "1 x 1 convolution": lambda tokens: as_tokens(projection.of_row(as_map(tokens, (1, tokens.shape[1])))),
        },
        "depthwise 5 x 5": {
            "channels last": lambda tokens: as_tokens(convolution(as_map(tokens, grid))),
            "channels last, gradient by windows": lambda tokens: as_tokens(
                depthwise(as_map(tokens, grid), convolution.weight, convolution.bias)
            ),
            "channels first": lambda tokens: as_tokens(convolution(as_map(tokens, grid).contiguous())),
        },
        "MLP": {"whole": mlp, "in slices": sliced, "without GELU": linear_mlp},
    }
    if attends:
        ways["attention"] = {
            "fused": lambda tokens: attention(tokens, tokens, grid),
            "A formed": lambda tokens: formed(tokens, tokens, grid),
        }
    return ways


def _work(compute: Callable[[Tensor], Tensor], tokens: Tensor, backward: bool) -> Work:
    def work() -> object:
        if not backward:
            with torch.no_grad():
                return compute(tokens)
        answer = compute(tokens.detach().requires_grad_())
        answer.backward(torch.ones_like(answer))
        return answer

    return work
