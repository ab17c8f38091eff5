"""Maps from within a network of stages, as timm asks for them: methods of `network.Container`, a page of their own."""

from typing import Any

import torch
from timm.models import register_notrace_function
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from contagg.errors import UserError
from contagg.nn.stages import STAGES


@register_notrace_function
def check_images(images: Tensor, channels: int, least: int = 0) -> None:
    """Raise UserError unless images are (B, channels, H, W), and several or with a side of more than `least` pixels."""
    if images.ndim != 4 or images.shape[1] != channels:
        raise UserError(
            f"images of shape {tuple(images.shape)} given, (batch, {channels}, height, width) expected; "
            "pass `in_chans` when creating the model for another number of channels"
        )
    if least and not torch.compiler.is_exporting() and images.shape[0] == 1 and max(images.shape[2:]) <= least:
        raise UserError(
            f"one image of {images.shape[2]} x {images.shape[3]} is one position in the last stage, of which BatchNorm "
            f"takes no statistics: train with several images per step, with more than {least} pixels, or in eval mode"
        )


def least_size(network: Any) -> int:
    """Pixels that one side of a single image must exceed, so that BatchNorm has what to take statistics of."""
    # SyncBatchNorm has the images of other processes.
    counts = any(norm.training and type(norm) is nn.BatchNorm2d for norm in network.stages[-1].blocks[-1].modules())
    return network.feature_info[len(network.stages) - 1]["reduction"] if counts else 0


def forward_intermediates(
    self: Any,
    x: Tensor,
    indices: int | list[int] | None = None,
    norm: bool = False,
    stop_early: bool = False,
    output_fmt: str = "NCHW",
    intermediates_only: bool = False,
    mask: Tensor | None = None,
) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
    """The maps after the chosen stages, as timm's networks give them; `norm` normalises the last stage's.

    They are (B, C, H / stride, W / stride), rounded up, or with channels last where `output_fmt` is "NHWC"; what
    comes first in a pair with them is the final map, "NCHW" in any case.

    `mask` (B, H, W) is true where a batch holds an image and not its padding, zeros below and right of it. The
    maps are then those of each image alone, and zeros (before `norm`) in its padding.
    """
    if output_fmt not in ("NCHW", "NHWC"):
        raise UserError(f"output_fmt {output_fmt!r}: these networks give maps, 'NCHW' or 'NHWC'")
    check_images(x, self.in_chans, least_size(self))
    take, last = feature_take_indices(len(self.stages), indices)
    maps = []
    for stage in self.stages[: last + 1] if stop_early else self.stages:
        x = stage(x, mask)
        mask = mask if mask is None else stage.embedding.mask(mask)
        maps.append(x)
    final = self._normalized(x) if len(maps) == STAGES else x
    if norm:
        maps[-1] = final
    intermediates = [maps[index].permute(0, 2, 3, 1) if output_fmt == "NHWC" else maps[index] for index in take]
    return intermediates if intermediates_only else (final, intermediates)


def prune_intermediate_layers(
    self: Any, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
) -> list[int]:
    """Drop what the chosen stages do not need; returns their indices."""
    take, last = feature_take_indices(len(self.stages), indices)
    self.stages = self.stages[: last + 1]
    pruned = last < STAGES - 1
    if prune_norm or pruned:
        self.norm = nn.Identity()
    if pruned:
        self.num_features = self.config.embed_dims[last]
    if prune_head or pruned:
        self.reset_classifier(0, "")
    return take
