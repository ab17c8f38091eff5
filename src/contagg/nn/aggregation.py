"""How is A used (Eq. 3): Y = Concat(A_1 V_1 .. A_M V_M) W_2 with V = X W_1. The residual is the block's."""

import re

import torch
from timm.models import register_notrace_module
from timm.models._input import get_model_input_config
from torch import Tensor, nn

from contagg.affinity.base import Affinity, Grid, as_map, as_tokens, check_fills, clear_padding, spread
from contagg.affinity.mixture import GateWord, Mixture
from contagg.affinity.registry import Factory, Site, build_affinity
from contagg.errors import UserError

CHANNEL_MIXING = ("full-conv3", "group-conv3/8")
"""Examples of the words that `build_aggregation` takes beside those of affinities."""


@register_notrace_module  # torch.fx cannot follow its check of the grid
class ChannelMixingConvolution(nn.Module):
    """A full or grouped convolution, two rows of Table 2: it mixes channels, so it is no affinity and has no A."""

    def __init__(self, channels: int, kernel_size: int, groups: int) -> None:
        super().__init__()
        if groups < 1 or channels % groups or kernel_size % 2 == 0:
            raise UserError(
                f"a convolution of {channels} channels in {groups} groups with a kernel of {kernel_size}: "
                "groups must divide the channels and the kernel must be odd"
            )
        self.convolution = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, groups=groups)

    def projections(self) -> list[nn.Linear]:
        """None: it reads values alone."""
        return []

    def fold(self, gate: Tensor) -> None:
        """It is its own inference form."""

    def forward(self, values: Tensor, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        """(B, N, C) -> (B, N, C), each channel from all channels of its group in the window."""
        check_fills(values, grid, f"a convolution of {self.convolution.groups} groups")
        return as_tokens(self.convolution(as_map(values, grid)))


class Aggregation(nn.Module):
    """Value projection, A V over the heads, output projection."""

    def __init__(self, channels: int, affinity: Affinity | ChannelMixingConvolution) -> None:
        super().__init__()
        self.value = nn.Linear(channels, channels)
        self.affinity: nn.Module = affinity
        self.output = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
        """(B, N, C) -> (B, N, C) for N tokens of which the last H*W lie on `grid`.

        With `mask` (B, H, W), true where the batch holds an image, an image is answered as it is alone; what comes out
        in its padding means nothing.
        """
        values = clear_padding(self.value(tokens), mask)
        return self.output(self.affinity(values, clear_padding(tokens, mask), grid, mask))

    def closable(self) -> Mixture | None:
        """Its mixture, where the dynamic part of that can be closed."""
        return self.affinity.closable() if isinstance(self.affinity, Affinity) else None

    def open_heads(self) -> tuple[int, ...]:
        """The numbers, from 1, of the heads of its affinity that can be closed one by one."""
        return self.affinity.open_heads() if isinstance(self.affinity, Affinity) else ()

    def closed_kernel(self) -> int | None:
        """The kernel size of those of its heads that were closed; None where none was."""
        return getattr(self.affinity, "closed_kernel", None)

    @torch.no_grad()
    def leave_static(self) -> Tensor | None:
        """Leave the static part of a closable mixture alone, for good: the answers are those with the other closed.

        Returns:
            What the columns of the output projection were multiplied by, (1,) or (C,): the static part's weight, which
            is thus no more; None where it was 1.
        """
        mixture = self.closable()
        assert mixture is not None
        static, weight = mixture.static_part()
        if weight is not None:
            weight = spread(weight.detach().clone(), self.output.in_features)
            self.output.weight.mul_(weight)
        self.affinity = static
        return weight


def affinities(model: nn.Module) -> list[Affinity]:
    """The affinities of a network in its order, a mixture as one; channel-mixing convolutions are none."""
    mixers = [module.affinity for module in model.modules() if isinstance(module, Aggregation)]
    return [mixer for mixer in mixers if isinstance(mixer, Affinity)]


def is_ours(model: nn.Module) -> bool:
    """Whether a network, or a part of it, is made of this package's blocks, so that `fuse` has anything to do."""
    return any(isinstance(module, Aggregation) for module in model.modules())


def serves_any_size(model: nn.Module) -> bool:
    """Whether no parameter of a network belongs to one grid, positions that are interpolated aside."""
    return not get_model_input_config(model)["fixed_input_size"] and all(
        affinity.grid is None for affinity in affinities(model)
    )


def build_aggregation(word: str | Factory, site: Site, gate: GateWord = "free") -> Aggregation:
    """The aggregation of an affinity's word or factory, or of `full-conv3` or `group-conv3/8` (eight groups).

    Raises:
        UserError: the word is wrong; says what is allowed and the nearest match.
    """
    if isinstance(word, str) and (match := re.fullmatch(r"(full|group)-conv(\d+)(?:/(\d+))?", word)):
        kind, kernel_size, groups = match.groups()
        if (kind == "group") != (groups is not None):
            raise UserError(f"affinity {word!r}: write 'full-conv3', or 'group-conv3/8' for eight groups")
        mixer = ChannelMixingConvolution(site.channels, int(kernel_size), int(groups or 1))
        return Aggregation(site.channels, mixer)
    return Aggregation(site.channels, build_affinity(word, site, gate, also=CHANNEL_MIXING))
