"""What a network is made of (Sec. 3.4): its configuration, and the stages that it describes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import Any, Literal, get_args

import torch
from timm.layers import calculate_drop_path_rates
from timm.models._manipulate import checkpoint
from torch import Tensor, nn

from contagg.affinity.base import Grid, as_map, clear_padding
from contagg.affinity.mixture import GateWord
from contagg.affinity.registry import Factory, Site
from contagg.errors import UserError, nearest, plural
from contagg.nn.aggregation import affinities, build_aggregation
from contagg.nn.block import Block, NormPlacement
from contagg.nn.embedding import AbsolutePosition, OverlappingEmbedding, PatchEmbedding

STAGES = 4

ACTIVATIONS = ("gelu", "gelu_tanh", "hard_swish", "relu", "silu")
"""timm's names of those that an MLP may have."""

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
    `embedding` projects patches ("patch"), or halves the map by 3x3 convolutions that overlap ("overlapping").
    `layer_scale` is what LayerScale's factors of each branch start at; None has none.
    `activation` is that of MLPs and of overlapping embeddings.
    `norm_placement` is before each branch ("pre"), after each ("res_post", as in Swin V2), or before the aggregation
    alone ("single").
    """

    embed_dims: tuple[int, ...] = (64, 128, 320, 512)
    depths: tuple[int, ...] = (3, 4, 8, 3)
    patch_sizes: tuple[int, ...] = (4, 2, 2, 2)
    mlp_ratios: tuple[float, ...] = (4, 4, 4, 4)
    affinity: Word | Sequence[Word | Sequence[Word]] = "attention + dwconv3"
    position: Literal["absolute", "cpe"] = "absolute"
    gate: GateWord = "free"
    embedding: Literal["patch", "overlapping"] = "patch"
    layer_scale: float | None = None
    activation: str = "gelu"
    norm_placement: NormPlacement = "pre"

    def __post_init__(self) -> None:
        for name in ("embed_dims", "depths", "patch_sizes", "mlp_ratios"):
            object.__setattr__(self, name, _a_stage_each(name, getattr(self, name)))
        if isinstance(self.affinity, list | tuple) and len(self.affinity) != STAGES:
            raise UserError(f"affinity {self.affinity!r} must be one word, or {STAGES}, one a stage")
        assert self.blocks  # raises for words that do not fit
        if self.position in RENAMED_POSITIONS:
            now = RENAMED_POSITIONS[self.position]
            raise UserError(f"position {self.position!r} is called {now!r} (conditional position encoding)")
        for name, allowed in (
            ("position", ("absolute", "cpe")),
            ("embedding", ("patch", "overlapping")),
            ("activation", ACTIVATIONS),
            ("norm_placement", get_args(NormPlacement)),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise UserError(f"{name} {value!r} must be one of {', '.join(allowed)}.{nearest(value, allowed)}")
        scale = self.layer_scale
        if scale is not None and not (type(scale) in (int, float) and scale > 0):
            raise UserError(f"layer_scale {self.layer_scale!r} must be a number above 0, such as 1e-5, or None")

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

    @property
    def first_conv(self) -> str:
        """The layer that takes the image."""
        within = "projection" if self.embedding == "patch" else "halvings.0.convolution"
        return f"stages.0.embedding.{within}"

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
        raise UserError(f"affinity: {where} has {plural(depth, 'block')} and {plural(len(words), 'word')}, {words!r}")
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


class Stage(nn.Module):
    """Patch embedding, then blocks: (B, C, H, W) -> (B, C', ceil(H / patch), ceil(W / patch)).

    `mask` (B, H, W) is true where a padded batch holds an image; what is given, and what comes out, is 0 elsewhere.
    """

    def __init__(
        self,
        embedding: PatchEmbedding | OverlappingEmbedding,
        position: AbsolutePosition | None,
        blocks: Sequence[Block],
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.position = position
        self.blocks = nn.ModuleList(blocks)
        self.grad_checkpointing = False

    def forward(self, feature_map: Tensor, mask: Tensor | None = None) -> Tensor:
        tokens, grid = self.embedding(feature_map, mask)
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
                layer_scale=config.layer_scale,
                activation=config.activation,
                norm_placement=config.norm_placement,
            )
            for word in config.blocks[index]
        ]
        position = AbsolutePosition(width, grid) if config.position == "absolute" else None
        stages.append(Stage(_embedding(config, index, in_channels), position, blocks))
        in_channels = width
    return stages


def _embedding(config: NetworkConfig, stage: int, in_channels: int) -> PatchEmbedding | OverlappingEmbedding:
    width, patch = config.embed_dims[stage], config.patch_sizes[stage]
    if config.embedding == "patch":
        return PatchEmbedding(in_channels, width, patch)
    return OverlappingEmbedding(in_channels, width, patch, config.activation)
