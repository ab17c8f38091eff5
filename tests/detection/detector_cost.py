"""What a detector costs an image: multiply-adds as Table 4 counts them."""

import copy
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from contagg.detection.detectors import Detector

BOX_REGIONS, MASK_REGIONS = 1000, 100
"""The regions that Mask R-CNN's heads look at in an image at most; Table 4 counts that many."""


def multiply_adds(detector: Detector, size: tuple[int, int] = (800, 1280)) -> int:
    """Of one image of (height, width), multiples of 32; attention's products included. Shapes alone are worked out."""
    network: Any = copy.deepcopy(detector.network).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        levels = list(network.backbone(torch.empty(1, 3, *size, device="meta")).values())
        if detector.masks:
            network.rpn.head(levels)
            _regions(network.roi_heads, network.backbone.out_channels)
        else:
            network.head(levels)
    return counter.get_total_flops() // 2


def _regions(heads: Any, channels: int) -> None:
    """Run Mask R-CNN's heads on as many regions as there can be."""
    head: nn.Module
    for head, predictor, count, cells in (
        (heads.box_head, heads.box_predictor, BOX_REGIONS, 7),
        (heads.mask_head, heads.mask_predictor, MASK_REGIONS, 14),
    ):
        predictor(head(torch.empty(count, channels, cells, cells, device="meta")))
