"""What a set of answers costs once each object has its query: class, L1 and generalized IoU, summed over the layers."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_convert, generalized_box_iou_loss, sigmoid_focal_loss

from contagg.detection.detr.config import SetConfig
from contagg.detection.detr.matching import ALPHA, GAMMA, Matches, Predictions, match
from contagg.device import processes
from contagg.errors import UserError, plural


class SetCriterion(nn.Module):
    """One for DETR, Deformable DETR and SMCA-DETR; shapes as in `contagg.detection.detr.matching`."""

    def __init__(self, config: SetConfig, classes: int) -> None:
        super().__init__()
        self.config, self.classes = config, classes
        weights = torch.ones(classes + 1)
        weights[-1] = config.no_object_weight
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, predictions: Predictions, targets: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """`loss_class`, `loss_box` and `loss_giou`, weighted.

        Args:
            targets: One an image: `labels` (N,) from 0, `boxes` (N, 4) as fractions, and `image_id` where it is known.

        Raises:
            UserError: targets that are not that, or more objects than queries; names the image.
        """
        check_targets(predictions, targets, self.classes)
        matches = match(predictions, targets, self.config)
        labels = torch.cat([target["labels"] for target in targets])
        wanted = torch.cat([target["boxes"] for target in targets]).to(predictions.boxes)
        count = average_count(len(labels), wanted.device)
        given = predictions.boxes[matches.layer, matches.image, matches.query]
        wanted = wanted[matches.object]
        corners = (box_convert(boxes, "cxcywh", "xyxy") for boxes in (given, wanted))
        config = self.config
        return {
            "loss_class": config.class_weight * self._classes(predictions.logits, matches, labels, count),
            "loss_box": config.box_weight * (given - wanted).abs().sum() / count,
            "loss_giou": config.giou_weight * generalized_box_iou_loss(*corners, reduction="sum") / count,
        }

    def _classes(self, logits: Tensor, matches: Matches, labels: Tensor, count: Tensor) -> Tensor:
        wanted = labels.new_full(logits.shape[:3], self.classes)
        wanted[matches.layer, matches.image, matches.query] = labels[matches.object]
        if self.config.class_loss == "focal":
            one_hot = F.one_hot(wanted, self.classes + 1)[..., :-1].to(logits)
            return sigmoid_focal_loss(logits, one_hot, ALPHA, GAMMA, reduction="sum") / count
        # Every layer has as many objects, so that the sum of its means is the mean over all times their number.
        weights = torch.as_tensor(self.weights).to(logits)
        return len(logits) * F.cross_entropy(logits.flatten(0, 2), wanted.flatten(), weights)


def average_count(count: int, device: torch.device) -> Tensor:
    """Objects a process, averaged over all of them, at least 1: gradients are averaged over the processes too."""
    total = torch.tensor(float(count), device=device)
    if processes() > 1:
        dist.all_reduce(total)
        total /= processes()
    return total.clamp(min=1)


def check_targets(predictions: Predictions, targets: Sequence[dict[str, Any]], classes: int) -> None:
    """UserError unless there is a target for each image, and it can be matched; see `SetCriterion`."""
    _, images, queries, _ = predictions.boxes.shape
    if len(targets) != images:
        raise UserError(f"{plural(images, 'image')}, but {plural(len(targets), 'target')}: training needs one for each")
    for number, target in enumerate(targets):
        where = f"target of image {target.get('image_id', number)}"
        boxes, labels = target["boxes"], target["labels"]
        if boxes.shape != (len(labels), 4) or labels.ndim != 1:
            raise UserError(
                f"{where}: boxes {tuple(boxes.shape)} and labels {tuple(labels.shape)} must be (N, 4), (N,)"
            )
        if len(labels) > queries:
            raise UserError(
                f"{where}: it has {plural(len(labels), 'object')}, but there are "
                f"{plural(queries, 'query', 'queries')}: raise them"
            )
        if not len(labels):
            continue
        if labels.min() < 0 or labels.max() >= classes:
            raise UserError(f"{where}: labels {labels.min()} to {labels.max()} must lie between 0 and {classes - 1}")
        # Rounding may leave half a pixel of a small image over; pixels are far beyond.
        fits = (boxes[:, 2:] > 0).all(1) & (boxes > -0.1).all(1) & (boxes < 1.1).all(1)
        if not fits.all():
            raise UserError(
                f"{where}: box {boxes[~fits][0].tolist()} must be centre x, centre y, width and height as fractions of "
                "the image, with width and height above 0"
            )
