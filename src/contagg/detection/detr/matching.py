"""Which query answers for which object: the assignment of least cost (Carion et al., 2020, Eq. 1).

L decoder layers, B images, Q queries, K classes. Boxes are (centre x, centre y, width, height) as fractions of the
image without its padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from contagg.detection.detr.config import SetConfig

ALPHA, GAMMA = 0.25, 2.0
"""Of the focal loss."""


@dataclass(frozen=True)
class Predictions:
    """What each layer's queries answer.

    Attributes:
        logits: (L, B, Q, K), or K + 1 with "no object" last where the class loss is cross entropy.
        boxes: (L, B, Q, 4).
    """

    logits: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class Matches:
    """Pairs, one an entry: `layer`, `image` and `query` of the answer, `object` among all objects of the batch."""

    layer: Tensor
    image: Tensor
    query: Tensor
    object: Tensor


@torch.no_grad()
def match(predictions: Predictions, targets: Sequence[dict[str, Any]], config: SetConfig) -> Matches:
    """Pair each object of each image with one query of each layer.

    Args:
        targets: Of each image `labels` (N,) and `boxes` (N, 4), N at most Q.
    """
    found: list[tuple[int, int, int, int]] = []
    before = 0
    for image, target in enumerate(targets):
        count = len(target["labels"])
        if count:
            cost = costs(predictions.logits[:, image], predictions.boxes[:, image], target, config)
            # What is not finite is matched anyhow: the loss tells of it.
            for layer, matrix in enumerate(cost.nan_to_num(1e9).cpu().numpy()):
                pairs = zip(*linear_sum_assignment(matrix), strict=True)
                found += [(layer, image, int(query), before + int(number)) for query, number in pairs]
        before += count
    columns = torch.tensor(found, dtype=torch.int64, device=predictions.boxes.device).reshape(-1, 4)
    return Matches(*columns.unbind(1))


def costs(logits: Tensor, boxes: Tensor, target: dict[str, Any], config: SetConfig) -> Tensor:
    """(L, Q, K or K + 1) and (L, Q, 4) of an image, and its N objects -> (L, Q, N)."""
    logits, labels, wanted = logits.double(), target["labels"], target["boxes"].double()
    by_class = (focal_costs(logits) if config.class_loss == "focal" else -logits.softmax(-1))[..., labels]
    flat = boxes.double().flatten(0, 1)
    distance = torch.cdist(flat, wanted, p=1)
    overlap = generalized_box_iou(*(box_convert(some, "cxcywh", "xyxy") for some in (flat, wanted)))
    by_box = config.box_weight * distance - config.giou_weight * overlap
    return config.class_weight * by_class + by_box.view(*boxes.shape[:2], -1)


def focal_costs(logits: Tensor) -> Tensor:
    """What the focal loss would be with the class, less what it would be without it."""
    probability = logits.sigmoid()
    present = -ALPHA * (1 - probability) ** GAMMA * F.logsigmoid(logits)
    absent = -(1 - ALPHA) * probability**GAMMA * F.logsigmoid(-logits)
    return present - absent
