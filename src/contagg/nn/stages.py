"""What a network is made of (Sec. 3.4): its configuration, and the stages that it describes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.layers import calculate_drop_path_rates
from timm.models import register_notrace_module
from timm.models._manipulate import checkpoint
from torch import Tensor, nn

from contagg.affinity.base import Grid, as_map, as_tokens, clear_padding, image_grids
from contagg.affinity.mixture import GateWord
from contagg.affinity.registry import Factory, Site
from contagg.errors import UserError
from contagg.nn.aggregation import affinities, build_aggregation
from contagg.nn.block import Block

STAGES = 4

RENAMED_POSITIONS = {"convolution": "cpe"}
"""What a position encoding was called once, and what it is called."""

Word = str | Factory
"""Names an affinity, or makes it."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """What a network is made of; one entry per stage.

    `affinity` is a word, or a factory (`Site` -> `Affinity`), for all stages, or one for each of them, where a list
    holds one for each block of a stage: `("dwconv5", "dwconv5", ["dwconv5"] * 6 + ["attention + dwconv5"] * 2,
    "attention + dwconv5")`.
    `position` is a learnt embedding at the start of a stage ("absolute"), or a depthwise 3x3 convolution at the start
    of each block: conditional position encoding ("cpe").
    `gate` mixes the two affinities of a word such as "attention + dwconv3".
    """

    embed_dims: tuple[int, ...] = (64, 128, 320, 512)
    depths: tuple[int, ...] = (3, 4, 8, 3)
    patch_sizes: tuple[int, ...] = (4, 2, 2, 2)
    mlp_ratios: tuple[float, ...] = (4, 4, 4, 4)
    affinity: Word | Sequence[Word | Sequence[Word]] = "attention + dwconv3"
    position: Literal["absolute", "cpe"] = "absolute"
    gate: GateWord = "free"

    def __post_init__(self) -> None:
        for name in ("embed_dims", "depths", "patch_sizes", "mlp_ratios"):
            object.__setattr__(self, name, _a_stage_each(name, getattr(self, name)))
        if isinstance(self.affinity, list | tuple) and len(self.affinity) != STAGES:
            raise UserError(f"affinity {self.affinity!r} must be one word, or {STAGES}, one a stage")
        assert self.blocks  # raises for words that do not fit
        if self.position in RENAMED_POSITIONS:
            now = RENAMED_POSITIONS[self.position]
            raise UserError(f"position {self.position!r} is called {now!r} (conditional position encoding)")
        if self.position not in ("absolute", "cpe"):
            raise UserError(f"position {self.position!r} must be 'absolute' or 'cpe'")

    @property
    def blocks(self) -> tuple[tuple[Word, ...], ...]:
        """The affinity of each block of each stage."""
        stages = self.affinity if isinstance(self.affinity, list | tuple) else (self.affinity,) * STAGES
        names = [f"stage {number}" for number in range(1, STAGES + 1)]
        return tuple(a_block_each(*of) for of in zip(names, stages, self.depths, strict=True))

    @property
    def fixed_input_size(self) -> bool:
        """Whether a network so described serves the one image size that it was made or resized for."""
        with torch.device("meta"):
            return any(
                affinity.grid is not None
                for width, words in zip(self.embed_dims, self.blocks, strict=True)
                for word in set(words)
                for affinity in affinities(build_aggregation(word, Site(channels=width, grid=(1, 1))))
            )

    def feature_info(self) -> list[dict[str, Any]]:
        """Channels, stride and module of each stage, in timm's form."""
        strides = accumulate(self.patch_sizes, mul)
        return [
            {"num_chs": width, "reduction": stride, "module": f"stages.{index}"}
            for index, (width, stride) in enumerate(zip(self.embed_dims, strides, strict=True))
        ]

    def grids(self, image_size: Grid) -> Iterator[Grid]:
        """The grid of each stage; sizes off the stride round up, as the patch embeddings pad."""
        height, width = image_size
        for patch in self.patch_sizes:
            height, width = -(-height // patch), -(-width // patch)
            yield height, width


def a_block_each(where: str, given: Word | Sequence[Word], depth: int) -> tuple[Word, ...]:
    """A word or a factory for each of the `depth` blocks of `where`. UserError for anything else."""
    words: tuple[Any, ...] = tuple(given) if isinstance(given, list | tuple) else (given,) * depth
    if len(words) != depth:
        raise UserError(f"affinity: {where} has {depth} blocks and {len(words)} words, {words!r}")
    for word in words:
        if not isinstance(word, str) and not callable(word):
            raise UserError(f"affinity {word!r} of {where} must be one word, or one a block, or make an Affinity")
    return words


def _a_stage_each(name: str, values: Any) -> tuple[Any, ...]:
    """One positive number a stage, as a tuple; whole ones for all but ratios. UserError for anything else."""
    kinds, word = ((int, float), "positive numbers") if name == "mlp_ratios" else ((int,), "positive whole numbers")
    values = tuple(values) if isinstance(values, list) else values
    if not (isinstance(values, tuple) and len(values) == STAGES and all(type(v) in kinds and v > 0 for v in values)):
        raise UserError(f"{name} {values!r} must be {STAGES} {word}, one a stage")
    return values


def for_any_size() -> bool:
    """Whether a graph is being recorded, which is to serve other sizes than that of the recorded image."""
    if torch.jit.is_scripting():
        return False
    else:  # compiled where scripting, were it not for the branch
        return torch.compiler.is_exporting() or torch.jit.is_tracing()


@register_notrace_module  # torch.fx cannot follow what depends on the size of an image
class PatchEmbedding(nn.Module):
    """A strided convolution and LayerNorm over channels; zeros fill the last patches of a size off the stride."""

    def __init__(self, in_channels: int, channels: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.projection = nn.Conv2d(in_channels, channels, patch, stride=patch)
        self.norm = nn.LayerNorm(channels)

    def forward(self, feature_map: Tensor) -> tuple[Tensor, Grid]:
        """(B, C, H, W) -> tokens (B, N, C') and their grid."""
        height, width = feature_map.shape[2], feature_map.shape[3]
        grid = (height + self.patch - 1) // self.patch, (width + self.patch - 1) // self.patch
        below, beside = grid[0] * self.patch - height, grid[1] * self.patch - width
        # A graph for any size must not depend on whether this one needs padding.
        if for_any_size() or below > 0 or beside > 0:
            feature_map = F.pad(feature_map, (0, beside, 0, below))
        # channels_last, in words that torch.func.vmap knows
        feature_map = self.projection(feature_map.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2))
        return self.norm(as_tokens(feature_map)), grid

    def mask(self, mask: Tensor) -> Tensor:
        """Which patches hold anything of an image: (B, H, W) -> (B, ceil(H / patch), ceil(W / patch))."""
        return mask[:, :: self.patch, :: self.patch]


@register_notrace_module
class AbsolutePosition(nn.Module):
    """A learnt vector a grid position, interpolated bicubically for other grids."""

    def __init__(self, channels: int, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        self.embedding = nn.Parameter(torch.empty(1, grid[0] * grid[1], channels))
        nn.init.trunc_normal_(self.embedding, std=0.02)

    def forward(self, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        if mask is None:
            return tokens + self.at(grid)
        if torch.jit.is_scripting():
            raise NotImplementedError("a scripted network takes no padded batches")
        return tokens + torch.cat([self._padded(size, grid) for size in image_grids(mask)])

    def at(self, grid: Grid) -> Tensor:
        """(1, N, C) for a grid."""
        # A graph for any size interpolates to the learnt grid too: the same but for rounding.
        if not for_any_size() and grid == self.grid:
            return self.embedding
        # Half precision cannot be interpolated.
        precision = torch.promote_types(self.embedding.dtype, torch.float32)
        learnt = as_map(self.embedding.to(precision), self.grid)
        return as_tokens(F.interpolate(learnt, grid, mode="bicubic", antialias=True)).to(self.embedding.dtype)

    def _padded(self, size: Grid, grid: Grid) -> Tensor:
        """(1, N, C): that of an image's own grid, and zeros in its padding."""
        feature_map = as_map(self.at(size), size)
        return as_tokens(F.pad(feature_map, (0, grid[1] - size[1], 0, grid[0] - size[0])))

    @torch.no_grad()
    def resize(self, grid: Grid) -> None:
        """Learn on another grid from now on."""
        self.embedding = nn.Parameter(self.at(grid).clone())
        self.grid = grid


class Stage(nn.Module):
    """Patch embedding, then blocks: (B, C, H, W) -> (B, C', ceil(H / patch), ceil(W / patch)).

    `mask` (B, H, W) is true where a padded batch holds an image; what is given, and what comes out, is 0 elsewhere.
    """

    def __init__(self, embedding: PatchEmbedding, position: AbsolutePosition | None, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.embedding = embedding
        self.position = position
        self.blocks = nn.ModuleList(blocks)
        self.grad_checkpointing = False

    def forward(self, feature_map: Tensor, mask: Tensor | None = None) -> Tensor:
        tokens, grid = self.embedding(feature_map)
        if mask is not None:
            mask = self.embedding.mask(mask)
        if self.position is not None:
            tokens = self.position(tokens, grid, mask)
        for block in self.blocks:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                tokens = checkpoint(block, tokens, grid, mask)
            else:
                tokens = block(tokens, grid, mask)
        return as_map(clear_padding(tokens, mask), grid)

    def resize(self, grid: Grid) -> None:
        """Resize what was learnt for one grid, position and static affinities, to another."""
        if self.position is not None:
            self.position.resize(grid)
        for affinity in affinities(self):
            affinity.resize(grid)


@dataclass(frozen=True)
class DropRates:
    """What is dropped at random in training: whole branches, entries of attention, outputs of projections."""

    path: float = 0.0
    attn: float = 0.0
    proj: float = 0.0


def build_stages(config: NetworkConfig, in_channels: int, image_size: Grid, drop: DropRates) -> list[Stage]:
    """The stages of a network, with stochastic depth growing linearly over all blocks to its rate."""
    rates: Iterator[Any] = iter(calculate_drop_path_rates(drop.path, sum(config.depths)))
    stages = []
    for index, grid in enumerate(config.grids(image_size)):
        width = config.embed_dims[index]
        blocks = [
            Block(
                width,
                build_aggregation(word, Site(channels=width, grid=grid, attn_drop=drop.attn), config.gate),
                config.mlp_ratios[index],
                next(rates),
                conditional_position=config.position == "cpe",
                proj_drop=drop.proj,
            )
            for word in config.blocks[index]
        ]
        position = AbsolutePosition(width, grid) if config.position == "absolute" else None
        stages.append(Stage(PatchEmbedding(in_channels, width, config.patch_sizes[index]), position, blocks))
        in_channels = width
    return stages
