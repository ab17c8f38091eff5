"""A backbone and a head over crops of several sizes. Parameters are `backbone.*` and `head.*`, as in the original."""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from contagg.self_supervised.head import DinoHead


class MultiCrop(nn.Module):
    """Runs the backbone once for each run of crops of one size, and the head once over all.

    BatchNorm therefore sees one batch a size: two a step for a student of global and local crops.

    Args:
        backbone: (B, C, H, W) -> (B, D), for every size of crop.
        head: (B, D) -> (B, K).
    """

    def __init__(self, backbone: nn.Module, head: DinoHead) -> None:
        super().__init__()
        self.backbone: nn.Module = backbone
        self.head: DinoHead = head

    def forward(self, crops: Sequence[Tensor]) -> Tensor:
        """n crops, each of the same B images, (B, C, H, W) -> (n * B, K), crop after crop."""
        same_size = [list(group) for _, group in groupby(crops, key=lambda crop: crop.shape[-2:])]
        return self.head(torch.cat([self.backbone(torch.cat(group)) for group in same_size]))
