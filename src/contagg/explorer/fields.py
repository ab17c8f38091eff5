"""Through the network: what a place at its end depends on, composed of the layers' A, and as the network itself says.

Composed: the place's weight is handed back layer by layer, to the place itself by the share that the residual has in
what a layer hands on, else by |A|, whose rows sum to 1; from a coarser grid to a finer one evenly to the tokens of a
patch. Vectors of N numbers are kept, never N x N. It knows of no channels, norms and feed-forwards.

True: the effective receptive field of Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional
Neural Networks" (https://arxiv.org/abs/1701.04128): lengths of the gradient of the place's features by the pixels. Of
all features at once by one backward pass with random signs, whose mean square is that of all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contagg.affinity.base import Grid
from contagg.inspect.forms import RecordedLayer
from contagg.inspect.measures import spread_places
from contagg.inspect.quiet import GradientsStay
from contagg.inspect.sizes import mean_sizes

LONGEST = 64
"""Cells along the longer side of a field as it is kept."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """Two maps (h, w) that sum to 1, of one place (row, column) on the last layer's `grid`.

    Attributes:
        agreement: What they have in common, sum of the lesser of both: 1 for the same, 0 where they do not meet.
    """

    row: int
    column: int
    grid: Grid
    composed: Tensor
    true: Tensor

    @property
    def agreement(self) -> float:
        return float(torch.minimum(self.composed, self.true).sum())


def fields(
    model: nn.Module,
    image: Tensor,
    layers: Sequence[RecordedLayer],
    count: int,
    tell: Callable[[str, float], None] = lambda what, done: None,
) -> list[Field]:
    """Of `count` places at most, spread over the grid of the last layer, for an image (1, C, H, W).

    `tell` is told what is done and what part of it, up to 1.

    Empty where the layers are not one way from the image to the end: an encoder with a decoder, or without a grid.
    """
    used = [layer for layer in layers if layer.target_grid is None and not layer.targets]
    if not used or count < 1 or len(used) != len(layers):
        return []
    last = used[-1]
    places = spread_places(last.grid, count)
    positions = last.prefix + places[:, 0] * last.grid[1] + places[:, 1]
    true = true_fields(model, image, last, positions, tell)
    if true is None:
        return []
    size = (image.shape[2], image.shape[3])
    composed = composed_fields(used, positions, size)
    scale = min(1.0, LONGEST / max(size))
    kept = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    composed, true = (_normal(F.adaptive_avg_pool2d(maps[:, None], kept)[:, 0]) for maps in (composed, true.square()))
    true = _normal(true.sqrt())
    return [
        Field(row=row, column=column, grid=last.grid, composed=one, true=other)
        for (row, column), one, other in zip(places.tolist(), composed, true, strict=True)
    ]


@torch.no_grad()
def composed_fields(layers: Sequence[RecordedLayer], positions: Tensor, size: Grid) -> Tensor:
    """Of tokens (R,) of the last layer, over the pixels of an image of `size`, (R, H, W)."""
    last = layers[-1]
    weights = F.one_hot(positions, last.tokens).float()
    grid, prefix = last.grid, last.prefix
    for layer in reversed(layers):
        if layer.grid != grid:
            weights = _finer(weights[:, prefix:].unflatten(1, grid), layer.grid).flatten(1)
            weights = F.pad(weights, (layer.prefix, 0))
        elif layer.prefix != prefix:
            weights = F.pad(weights[:, prefix:], (layer.prefix, 0))
        grid, prefix = layer.grid, layer.prefix
        own = 0.0 if layer.residual is None else layer.residual
        weights = own * weights + (1 - own) * mean_sizes(layer, weights, normalised=True)
    return _finer(weights[:, prefix:].unflatten(1, grid), size)


def true_fields(
    model: nn.Module,
    image: Tensor,
    last: RecordedLayer,
    positions: Tensor,
    tell: Callable[[str, float], None] = lambda what, done: None,
) -> Tensor | None:
    """Lengths of the gradients by the pixels (R, H, W); None where the end's features cannot be found by shape."""
    module = dict(model.named_modules())[_block_of(model, last.name)]
    kept: list[Any] = []
    hook = module.register_forward_hook(lambda _, inputs, output: kept.append(output))
    pixels = image.detach().clone().requires_grad_()
    try:
        with torch.enable_grad(), GradientsStay():
            model(pixels)
    finally:
        hook.remove()
    features = _as_tokens(given, last) if kept and (given := _tensor(kept[-1])) is not None else None
    if features is None or not features.requires_grad:
        return None
    generator = torch.Generator().manual_seed(0)
    signs = 2.0 * torch.randint(0, 2, (features.shape[1],), generator=generator) - 1
    found = []
    tell("the network has run again, for receptive fields", 0)
    for index, position in enumerate(positions.tolist()):
        (gradient,) = torch.autograd.grad(
            (features[position] * signs).sum(), pixels, retain_graph=index + 1 < len(positions)
        )
        found.append(gradient[0].square().sum(0).sqrt())
        tell(f"receptive field {index + 1} of {len(positions)}", (index + 1) / len(positions))
    return torch.stack(found)


def _tensor(output: Any) -> Tensor | None:
    """The first tensor of what a module gave, be that a tuple or a dictionary."""
    if isinstance(output, Mapping):
        output = tuple(output.values())
    if isinstance(output, tuple | list):
        return next((each for each in output if isinstance(each, Tensor)), None)
    return output if isinstance(output, Tensor) else None


def _as_tokens(output: Tensor, layer: RecordedLayer) -> Tensor | None:
    """(N, C) in A's order of an output (1, N, C), (N, 1, C), (1, C, H, W) or (1, H, W, C)."""
    if output.ndim == 3 and 1 in output.shape[:2] and max(output.shape[:2]) == layer.tokens:
        tokens = output.flatten(0, 1)
        if layer.order is None or len(layer.order) != layer.tokens:
            return tokens
        return tokens[layer.order.argsort()] if bool((layer.order >= 0).all()) else None
    if output.ndim == 4 and tuple(output.shape[2:]) == layer.grid and layer.prefix == 0:
        return output[0].flatten(1).T
    if output.ndim == 4 and tuple(output.shape[1:3]) == layer.grid and layer.prefix == 0:
        return output[0].flatten(0, 1)
    return None


def _block_of(model: nn.Module, name: str) -> str:
    """The block that a layer lies in: the innermost member of a list of modules; itself where there is none."""
    modules, parts = dict(model.named_modules()), name.split(".")
    while ".".join(parts) not in modules:  # a module that mixes twice is told apart by what follows its name
        parts.pop()
    name = ".".join(parts)
    for length in range(len(parts) - 1, 0, -1):
        parent = modules[".".join(parts[:length])]
        if isinstance(parent, nn.ModuleList | nn.Sequential) and length + 1 <= len(parts):
            return ".".join(parts[: length + 1])
    return name


def _finer(maps: Tensor, size: Grid) -> Tensor:
    """Weights (R, h, w) shared out evenly over the larger grid that theirs is a patch embedding of, (R, H, W)."""
    patch = [-(-large // small) for large, small in zip(size, maps.shape[1:], strict=True)]
    spread = maps.repeat_interleave(patch[0], 1).repeat_interleave(patch[1], 2)[:, : size[0], : size[1]]
    return spread * (maps.sum((1, 2)) / spread.sum((1, 2)).clamp_min(1e-30))[:, None, None]


def _normal(maps: Tensor) -> Tensor:
    return maps / maps.sum((1, 2), keepdim=True).clamp_min(1e-30)
