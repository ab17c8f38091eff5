"""`contagg export onnx` for detectors: one image of one size -> boxes, scores and labels, best first.

The file does what `Detector` does with an image that fills its batch: it normalises, finds, and for RetinaNet
suppresses what overlaps (NMS is in the graph). It has no least score: whoever reads it draws the line.
"""

import argparse
import copy
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import clip_boxes_to_image, nms

from contagg.checkpoints.locate import weights_in
from contagg.data.coco.config import ResizingConfig
from contagg.detection.batching import DIVISOR, Batching, Detections
from contagg.detection.detectors import Detector
from contagg.detection.detr.network import SetNetwork, detections
from contagg.detection.saved import Saved, load_detector
from contagg.errors import UserError
from contagg.export import target
from contagg.export.formats import fixed_onnx, onnx_session
from contagg.files import write_output
from contagg.nn.aggregation import is_ours
from contagg.nn.fuse import fuse

OUTPUTS = ("boxes", "scores", "labels")
TOLERANCE = 1e-3
"""Largest difference of a score, and of a box as a part of the image, that is taken for rounding."""

NOT_EXPORTED = {
    "mask_rcnn": "Mask R-CNN cannot be exported: it pools as many regions from each level as it finds there, which is "
    "no graph of fixed shapes; contagg predict writes boxes and masks as COCO results, "
    "and --output json the boxes alone",
}


class RetinaNetGraph(nn.Module):
    """(1, 3, H, W) from 0 to 1 -> boxes (N, 4), scores (N,), labels (N,): as torchvision's without a least score.

    What has a low score suppresses nothing above it: with a least score of s the answers are these from s on.
    """

    def __init__(self, network: Any, size: tuple[int, int]) -> None:
        super().__init__()
        self.network, self.size = network, size
        image = torch.zeros(1, 3, *size)
        with torch.no_grad():
            levels = list(network.backbone(image).values())
        self.cells = [level.shape[2] * level.shape[3] * 9 for level in levels]
        self.anchors: Tensor
        self.register_buffer("anchors", network.anchor_generator(ImageList(image, [size]), levels)[0])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        network = self.network
        found = network.head(list(network.backbone(normalised(network.transform, images)).values()))
        parts = []
        for logits, offsets, anchors in zip(
            found["cls_logits"][0].split(self.cells),
            found["bbox_regression"][0].split(self.cells),
            self.anchors.split(self.cells),
            strict=True,
        ):
            scores, order = logits.sigmoid().flatten().topk(min(network.topk_candidates, logits.numel()))
            place = order // logits.shape[1]
            boxes = network.box_coder.decode_single(offsets[place], anchors[place])
            parts.append((clip_boxes_to_image(boxes, self.size), scores, order % logits.shape[1]))
        boxes, scores, labels = (torch.cat(kind) for kind in zip(*parts, strict=True))
        apart = labels[:, None].to(boxes) * (max(self.size) + 1)  # objects of two classes do not suppress each other
        kept = nms(boxes + apart, scores, network.nms_thresh)[: network.detections_per_img]
        return boxes[kept], scores[kept], labels[kept]


class SetGraph(nn.Module):
    """(1, 3, H, W) from 0 to 1 -> boxes (N, 4), scores (N,), labels (N,) of DETR and its relatives."""

    def __init__(self, network: SetNetwork, size: tuple[int, int]) -> None:
        super().__init__()
        self.network, self.size = network, size

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        predictions = self.network.predict(normalised(self.network.transform, images), [self.size])
        (found,) = detections(predictions, [self.size], self.network.config.class_loss, self.network.kept)
        return found["boxes"], found["scores"], found["labels"]


def normalised(transform: Batching, images: Tensor) -> Tensor:
    """As `Batching` does it."""
    return (images - torch.as_tensor(transform.mean)) / torch.as_tensor(transform.std)


def run(options: argparse.Namespace) -> None:
    """Export, compare the file's answers with the detector's on two images, and only then write it."""
    path = target(options)
    weights = weights_in(options.model)
    saved = load_detector(weights)
    if saved.detector in NOT_EXPORTED:
        raise UserError(f"{weights}: {NOT_EXPORTED[saved.detector]}")
    size = options.size or usual_size(saved.resizing)
    if any(length % DIVISOR for length in size):
        raise UserError(f"--size {size[0]},{size[1]}: both must be multiples of {DIVISOR}")
    content = to_onnx(saved, size)
    difference = compare(content, saved.model, size)
    if not difference < TOLERANCE:
        raise UserError(f"{path} was not written: its answers differ from the detector's by {difference:.1e}")
    write_output(path, content)
    suppression = "" if isinstance(saved.model.network, SetNetwork) else ", suppression included"
    print(
        f"{path}: {len(content) / 1e6:.1f} MB, one image of {size[0]} x {size[1]} (height x width), RGB from 0 to 1; "
        f"{', '.join(OUTPUTS)} best first{suppression}; within {difference:.1e} of the detector's"
    )


def usual_size(resizing: ResizingConfig) -> tuple[int, int]:
    """Height and width of a wide image as evaluation resizes it, to the nearest multiples of 32."""
    short, long = (max(1, round(side / DIVISOR)) * DIVISOR for side in (resizing.short_sides[-1], resizing.long_side))
    return short, long


def to_onnx(saved: Saved, size: tuple[int, int]) -> bytes:
    """The file of a detector for one image of `size`."""
    model = saved.model
    if is_ours(model):
        model = fuse(model)  # type: ignore[assignment]
    graph = SetGraph if isinstance(model.network, SetNetwork) else RetinaNetGraph
    described = {
        "task": "detection",
        "class_names": [category.name for category in saved.categories],
        "category_ids": [category.id for category in saved.categories],
        "preprocessing": {"input_size": [3, *size], "colours": "RGB", "range": [0, 1]},
    }
    network = graph(model.network, size).eval()  # type: ignore[arg-type]
    return fixed_onnx(network, torch.rand(1, 3, *size), OUTPUTS, described)


@torch.inference_mode()
def compare(content: bytes, model: Detector, size: tuple[int, int]) -> float:
    """The largest `difference` between the file and the detector, asked for all they find in noise, however unsure."""
    answer, network = onnx_session(content), copy.deepcopy(model)
    if hasattr(network.network, "score_thresh"):
        network.network.score_thresh = 0.0  # type: ignore[assignment]
    generator, worst = torch.Generator().manual_seed(0), 0.0
    for grain in (1, DIVISOR // 2):
        image = torch.rand(1, 3, size[0] // grain, size[1] // grain, generator=generator)
        image = nn.functional.interpolate(image, size, mode="bilinear")
        given = answer.run(list(OUTPUTS), {"images": image.numpy()})
        found = dict(zip(OUTPUTS, map(torch.from_numpy, given), strict=True))
        worst = max(worst, difference(found, network([image[0]])[0], max(size)))
    return worst


def difference(found: Detections, expected: Detections, side: int) -> float:
    """Between two lists of detections: of scores in their order, and of boxes, as parts of `side` pixels.

    A box is compared with the nearest of its label, since equal scores may stand in another order; not those of the
    last tenth, since where the list ends another may have come in by rounding.

    >>> one = {"boxes": torch.tensor([[0.0, 0, 8, 8]]), "scores": torch.tensor([0.5]), "labels": torch.tensor([2])}
    >>> difference(one, one | {"boxes": torch.tensor([[0.0, 0, 8, 6]])}, side=8)
    0.25
    """
    if len(found["scores"]) != len(expected["scores"]):
        return float("inf")
    surest = -(-len(expected["scores"]) * 9 // 10)
    boxes = torch.cdist(expected["boxes"][:surest], found["boxes"], p=float("inf")) / side
    boxes = boxes.masked_fill(expected["labels"][:surest, None] != found["labels"], float("inf"))
    scores = (found["scores"] - expected["scores"]).abs()
    return float(max(scores.max(), boxes.min(1).values.max()))
