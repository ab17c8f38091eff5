"""A detector by sets: the backbone's map, a transformer that answers with a set of objects, the heads, the losses.

B images, Q queries, D channels, L decoder layers, K classes, a map of h x w cells.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from contagg.data.coco.dataset import Target
from contagg.detection.backbone import Features, split_mask
from contagg.detection.batching import MEAN, STD, Batching, Detections
from contagg.detection.detr.config import SetConfig
from contagg.detection.detr.criterion import SetCriterion
from contagg.detection.detr.matching import Predictions
from contagg.detection.detr.positions import sine_positions
from contagg.detection.detr.transformer import SetTransformer, perceptron
from contagg.detection.padding import on_level

Answers = tuple[Tensor, Tensor | None]
"""Of each layer's queries (L, B, Q, D); and where their boxes begin, x and y before the sigmoid, (B, Q, 2)."""


class AttendingCore(nn.Module):
    """DETR's, or with `prior` SMCA's: the map's channels become the transformer's, and queries are learnt."""

    def __init__(self, channels: int, config: SetConfig, prior: bool) -> None:
        super().__init__()
        self.projection = nn.Conv2d(channels, config.width, 1)
        self.queries = nn.Embedding(config.queries, config.width)
        self.transformer = SetTransformer(
            config.width,
            config.heads,
            config.encoder_layers,
            config.decoder_layers,
            config.feedforward,
            config.dropout,
            prior,
        )

    def forward(self, features: Tensor, mask: Tensor, sizes: Tensor) -> Answers:
        """A map (B, C, h, w), where it holds something (B, h, w), and the images' width and height in cells (B, 2)."""
        features = self.projection(features)
        positions = sine_positions(mask, features.shape[1], features.dtype)
        return self.transformer(features, positions, mask, self.queries.weight, sizes)


class SetNetwork(nn.Module):
    """Takes and gives what torchvision's detectors do: images and targets in pixels, losses or detections.

    Attributes:
        features: The backbone, of one stride.
        core: See `AttendingCore`; Deformable DETR has its own.
        kept: Detections an image.
    """

    def __init__(self, features: Features, core: nn.Module, classes: int, config: SetConfig, kept: int) -> None:
        super().__init__()
        self.transform = Batching(MEAN, STD, first_label=0)
        self.features, self.core, self.config, self.kept = features, core, config, kept
        focal = config.class_loss == "focal"
        self.class_head = nn.Linear(config.width, classes if focal else classes + 1)
        self.box_head = perceptron(config.width, 4)
        if focal:
            nn.init.constant_(self.class_head.bias, -math.log(99))  # each class begins at a probability of 1 %
        self.criterion = SetCriterion(config, classes)

    def forward(
        self, images: list[Tensor], targets: list[Target] | None = None
    ) -> dict[str, Tensor] | list[Detections]:
        """Losses by name where there are targets, otherwise what was found; see `contagg.detection.detectors`."""
        batch, targets = self.transform(images, targets)
        predictions = self.predict(batch.tensors, batch.image_sizes)
        if targets is None:
            return detections(predictions, batch.image_sizes, self.config.class_loss, self.kept)
        wanted = [as_fractions(target, size) for target, size in zip(targets, batch.image_sizes, strict=True)]
        return self.criterion(predictions, wanted)

    def predict(self, batch: Tensor, sizes: Sequence[tuple[int, int]]) -> Predictions:
        """Of a padded batch (B, 3 or 4, H, W) of images of (height, width) pixels."""
        (features,) = self.features(batch)
        mask = features.new_ones(len(features), *features.shape[2:], dtype=torch.bool)
        if (pixels := split_mask(batch)[1]) is not None:
            mask = on_level(pixels, features)
        in_cells = features.new_tensor(sizes, dtype=self.box_head[-1].weight.dtype).flip(1) / self.config.stride
        answers, centres = self.core(features, mask, in_cells)
        with torch.autocast(features.device.type, enabled=False):  # bfloat16 would move boxes by whole pixels
            boxes = self.box_head(answers.to(in_cells.dtype))
        if centres is not None:
            boxes = torch.cat([boxes[..., :2] + centres, boxes[..., 2:]], -1)
        return Predictions(self.class_head(answers).to(boxes.dtype), boxes.sigmoid())


def as_fractions(target: Target, size: tuple[int, int]) -> dict[str, Any]:
    """A target whose boxes in pixels of an image of (height, width) become centre, width and height as fractions."""
    boxes = box_convert(target["boxes"], "xyxy", "cxcywh")
    return {**target, "boxes": boxes / boxes.new_tensor([size[1], size[0]]).repeat(2)}


@torch.no_grad()
def detections(
    predictions: Predictions, sizes: Sequence[tuple[int, int]], class_loss: str, kept: int
) -> list[Detections]:
    """What the last layer found in images of (height, width) pixels, the `kept` best, best first.

    With cross entropy a query tells its likeliest class, with focal loss it may tell several, as in the originals.
    """
    found = []
    for logits, boxes, (height, width) in zip(predictions.logits[-1], predictions.boxes[-1], sizes, strict=True):
        if class_loss == "focal":
            scores, order = logits.sigmoid().flatten().topk(min(kept, logits.numel()))
            query, labels = order // logits.shape[1], order % logits.shape[1]
        else:
            best, classes = logits.softmax(-1)[:, :-1].max(-1)
            scores, query = best.topk(min(kept, len(best)))
            labels = classes[query]
        limit = boxes.new_tensor([width, height]).repeat(2)
        corners = box_convert(boxes[query], "cxcywh", "xyxy") * limit
        found.append({"boxes": corners.clamp(min=0).minimum(limit), "scores": scores, "labels": labels})
    return found
