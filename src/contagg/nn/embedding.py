"""How maps become the tokens of a stage: embeddings of patches, and learnt positions."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from timm.layers import create_act_layer
from timm.models import register_notrace_module
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from contagg.affinity.base import Grid, as_map, as_tokens, image_grids
from contagg.errors import UserError


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

    def forward(self, feature_map: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Grid]:
        """(B, C, H, W) -> tokens (B, N, C') and their grid. What `mask` leaves out is 0 already."""
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


class Halving(nn.Module):
    """A 3 x 3 convolution, of stride 2 unless it is 1, BatchNorm and an activation: (B, C, H, W) -> (B, C', H', W')."""

    def __init__(self, in_channels: int, channels: int, stride: int, act: nn.Module) -> None:
        super().__init__()
        self.stride = stride
        self.convolution = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(channels)
        self.act = act

    def forward(self, feature_map: Tensor) -> Tensor:
        return self.act(self.norm(self.convolution(feature_map)))

    def mask(self, mask: Tensor) -> Tensor:
        """Of its answer, from that of what it is given."""
        return mask[:, :: self.stride, :: self.stride]

    def fold(self) -> None:
        """The BatchNorm goes into the convolution, for inference."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.convolution, self.norm = fuse_conv_bn_eval(self.convolution, self.norm), nn.Identity()


@register_notrace_module
class OverlappingEmbedding(nn.Module):
    """3 x 3 convolutions of stride 2, as many as make the patch's stride, with BatchNorm, and between them activations.

    Other than a patch's own projection they see across the edges of patches, and their norms fold away (`fuse`).
    All but the last have half of the channels.

    Raises:
        UserError: the stride is no power of 2.
    """

    def __init__(self, in_channels: int, channels: int, patch: int, activation: str) -> None:
        super().__init__()
        if patch & (patch - 1):
            raise UserError(f"an overlapping embedding halves the map: patch size {patch} must be a power of 2")
        count = max(1, patch.bit_length() - 1)
        widths = [in_channels, *[channels // 2] * (count - 1), channels]
        acts = [*(create_act_layer(activation) for _ in range(count - 1)), nn.Identity()]
        self.halvings = nn.ModuleList(
            Halving(*pair, min(2, patch), act) for pair, act in zip(pairwise(widths), acts, strict=True)
        )

    def forward(self, feature_map: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Grid]:
        """(B, C, H, W) -> tokens (B, N, C') and their grid. What `mask` leaves out is 0 already."""
        feature_map = feature_map.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # channels_last
        for halving in self.halvings:
            feature_map = halving(feature_map)
            if mask is not None and not torch.jit.is_scripting():
                # The next kernel reads beyond the image, where norms have left something.
                mask = halving.mask(mask)  # type: ignore[operator]
                feature_map = feature_map.masked_fill(~mask[:, None], 0)
        return as_tokens(feature_map), (feature_map.shape[2], feature_map.shape[3])

    def mask(self, mask: Tensor) -> Tensor:
        """Which tokens hold anything of an image: (B, H, W) -> (B, ceil(H / patch), ceil(W / patch))."""
        for halving in self.halvings:
            mask = halving.mask(mask)  # type: ignore[operator]
        return mask


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
