"""How is A used (Eq. 3): Y = Concat(A_1 V_1 .. A_M V_M) W_2 with V = X W_1. The residual is the block's."""

import re

from torch import Tensor, nn

from contagg.affinity.base import Affinity, Grid, as_map, as_tokens, clear_padding
from contagg.affinity.mixture import GateWord
from contagg.affinity.words import EXAMPLES, Site, build_affinity
from contagg.errors import UserError

WORDS = (*EXAMPLES, "full-conv3", "group-conv3/8")
"""Examples of every word that `build_aggregation` takes."""


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

    def aggregate(self, values: Tensor, tokens: Tensor, grid: Grid) -> Tensor:
        """(B, N, C) -> (B, N, C), each channel from all channels of its group in the window."""
        return as_tokens(self.convolution(as_map(values, grid)))


class Aggregation(nn.Module):
    """Value projection, A V over the heads, output projection."""

    affinity: Affinity | ChannelMixingConvolution

    def __init__(self, channels: int, affinity: Affinity | ChannelMixingConvolution) -> None:
        super().__init__()
        self.value = nn.Linear(channels, channels)
        self.affinity = affinity
        self.output = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """(B, N, C) -> (B, N, C) for N tokens of which the last H*W lie on `grid`."""
        values = clear_padding(self.value(tokens), grid)
        return self.output(self.affinity.aggregate(values, tokens, grid))


def build_aggregation(word: str, site: Site, gate: GateWord = "free") -> Aggregation:
    """The aggregation that a word names: any affinity's, `full-conv3`, or `group-conv3/8` (eight groups).

    Raises:
        UserError: the word is wrong; says what is allowed and the nearest match.
    """
    if match := re.fullmatch(r"(full|group)-conv(\d+)(?:/(\d+))?", word):
        kind, kernel_size, groups = match.groups()
        if (kind == "group") != (groups is not None):
            raise UserError(f"affinity {word!r}: write 'full-conv3', or 'group-conv3/8' for eight groups")
        mixer = ChannelMixingConvolution(site.channels, int(kernel_size), int(groups or 1))
        return Aggregation(site.channels, mixer)
    return Aggregation(site.channels, build_affinity(word, site, gate, offered=WORDS))
