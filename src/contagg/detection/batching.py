"""From images of any sizes to one padded batch, checked; and back to the pixels of the files."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from contagg.data.coco.dataset import Target
from contagg.errors import UserError, plural

DIVISOR = 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DETECTIONS = 100
"""Kept an image where a recipe does not say; torchvision's RetinaNet would keep 300."""

Detections = dict[str, Tensor]
"""Of an image: boxes (N, 4), scores (N,), labels (N,) from 0, and with Mask R-CNN masks (N, 1, S, S): the probability
that a point of the box's S x S grid is the object's."""


class Batching(nn.Module):
    """Normalise, pad to a common size and a multiple of 32, and say where the images are.

    It stands in the place of torchvision's GeneralizedRCNNTransform. Resizing is the data's work, so that it runs in
    their processes; masks are pasted by who needs them, one image at a time.

    Args:
        first_label: What the network calls label 0: Mask R-CNN keeps 0 for the background.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], first_label: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)
        self.first_label = first_label

    def forward(
        self, images: list[Tensor], targets: list[Target] | None = None
    ) -> tuple[ImageList, list[Target] | None]:
        """Images uint8 or 0 to 1, (3, H, W) -> (B, 3, H', W'), with a fourth channel if any image is smaller."""
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        height, width = (-(-max(lengths) // DIVISOR) * DIVISOR for lengths in zip(*sizes, strict=True))
        mean, std = torch.as_tensor(self.mean), torch.as_tensor(self.std)
        padded = any(size != (height, width) for size in sizes)
        batch = mean.new_zeros(len(images), 4 if padded else 3, height, width)
        for place, image, (high, wide) in zip(batch, images, sizes, strict=True):
            pixels = image.float() / 255 if image.dtype == torch.uint8 else image
            place[:3, :high, :wide] = (pixels.to(mean) - mean) / std
            place[3:, :high, :wide] = 1
        if targets is not None:
            targets = [target | {"labels": target["labels"] + self.first_label} for target in targets]
        return ImageList(batch, sizes), targets

    def postprocess(
        self, result: list[Detections], image_shapes: Sequence[Any], original_image_sizes: Sequence[Any]
    ) -> list[Detections]:
        """Labels from 0 again; the rest as the network gave it."""
        return [{**found, "labels": found["labels"] - self.first_label} if found else found for found in result]


def check_images(images: Sequence[Tensor]) -> None:
    """UserError unless images are (3, H, W), uint8 or floats within 0 and 1 that are finite, one or more of them."""
    if not len(images):
        raise UserError("a batch without images was given")
    for number, image in enumerate(images):
        if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise UserError(f"image {number} has the shape {tuple(image.shape)}: (3, height, width) was expected")
        if image.dtype == torch.uint8:
            continue
        low, high = image.aminmax()
        if not image.is_floating_point() or not (low >= -1e-3 and high <= 1 + 1e-3):  # false for NaN too
            raise UserError(
                f"image {number} is {image.dtype} from {low.item():g} to {high.item():g}: uint8, or floats from 0 to 1 "
                "(not yet normalised) were expected"
            )


def check_targets(images: Sequence[Tensor], targets: Sequence[Target] | None, classes: int, masks: bool) -> None:
    """UserError, naming the image, unless each image has a target that fits it: see `dataset` for what that is."""
    if targets is None or len(targets) != len(images):
        raise UserError(
            f"{plural(len(images), 'image')}, but {plural(len(targets or []), 'target')}: training needs one for each"
        )
    for number, (image, target) in enumerate(zip(images, targets, strict=True)):
        try:
            _check_form(tuple(image.shape[1:]), target, masks)
            if len(target["boxes"]):
                _check_values(tuple(image.shape[1:]), target["boxes"], target["labels"], classes)
        except UserError as error:
            raise UserError(f"target of image {target.get('image_id', number)}: {error}") from error


def _check_form(size: tuple[int, ...], target: Target, masks: bool) -> None:
    for key in ("boxes", "labels"):
        if key not in target:
            raise UserError(f"it has no {key!r}")
    boxes, labels = target["boxes"], target["labels"]
    if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
        raise UserError(f"boxes {tuple(boxes.shape)} and labels {tuple(labels.shape)} must be (N, 4) and (N,)")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise UserError(f"labels are {labels.dtype}, whole numbers were expected")
    if masks and ("masks" not in target or target["masks"].shape != (len(boxes), *size)):
        found = tuple(target["masks"].shape) if "masks" in target else "absent"
        raise UserError(f"masks are {found}, {(len(boxes), *size)} were expected")


def _check_values(size: tuple[int, ...], boxes: Tensor, labels: Tensor, classes: int) -> None:
    if not torch.isfinite(boxes).all():
        raise UserError(f"a box is not finite: {boxes[~torch.isfinite(boxes).all(1)][0].tolist()}")
    limit = boxes.new_tensor([size[1], size[0]]).repeat(2)
    outside = ((boxes < -0.5) | (boxes > limit + 0.5)).any(1)
    if outside.any():
        raise UserError(f"box {boxes[outside][0].tolist()} lies outside the image of {size[0]} x {size[1]} pixels")
    thin = (boxes[:, 2:] <= boxes[:, :2]).any(1)
    if thin.any():
        raise UserError(f"box {boxes[thin][0].tolist()} has no width or height")
    if boxes.max() <= 1 and (boxes[:, 2:] - boxes[:, :2] < 1).any():  # training leaves nothing thinner than a pixel
        raise UserError(f"box {boxes[0].tolist()} must be in pixels, not fractions of the image")
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(f"labels {labels.min()} to {labels.max()} must lie between 0 and {classes - 1}")
