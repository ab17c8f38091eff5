"""Slow: how many steps two images take to be learnt by heart."""

from pathlib import Path

import pytest
import torch
from torchvision.ops import box_convert, box_iou

from contagg.data.coco.annotations import read_annotations
from contagg.data.coco.dataset import CocoImages
from contagg.detection.config import DetectorConfig
from contagg.detection.detectors import Detector, build_detector
from contagg.detection.detr.config import SetConfig
from contagg.detection.detr.matching import match
from contagg.detection.detr.network import as_fractions
from tools.compose_coco import Composition, write_split

TWO = Composition(source="digits", size=128, classes=4, seed=3)
SETS = {"queries": 20, "stride": 8, "width": 64, "encoder_layers": 2, "decoder_layers": 3, "feedforward": 128}


def pair(folder: Path) -> tuple[list[torch.Tensor], list[dict]]:
    write_split(TWO, folder, "train", 2, workers=0)
    annotations = read_annotations(folder / "annotations/instances_train2017.json", folder / "train2017")
    samples = [CocoImages(annotations, False)[index] for index in range(2)]
    return [image.as_subclass(torch.Tensor) for image, _ in samples], [target for _, target in samples]


@torch.no_grad()
def mean_iou(model: Detector, images: list[torch.Tensor], targets: list[dict]) -> float:
    """Of the objects with the boxes that the last layer's matched queries answer."""
    network = model.eval().network
    batch, _ = network.transform(images, None)
    predictions = network.predict(batch.tensors, batch.image_sizes)
    wanted = [as_fractions(target, size) for target, size in zip(targets, batch.image_sizes, strict=True)]
    found = match(predictions, wanted, network.config)
    last = found.layer == len(predictions.boxes) - 1
    given = predictions.boxes[-1][found.image[last], found.query[last]]
    true = torch.cat([target["boxes"] for target in wanted])[found.object[last]]
    corners = (box_convert(boxes, "cxcywh", "xyxy") for boxes in (given, true))
    model.train()
    return box_iou(*corners).diagonal().mean().item()


def steps_to_half(detector: str, images: list[torch.Tensor], targets: list[dict], limit: int) -> int | None:
    """Steps until the mean IoU is 0.5, looked at every 20; None if it never was."""
    torch.manual_seed(0)
    loss = {"class_loss": "cross_entropy"} if detector == "detr" else {"class_loss": "focal", "class_weight": 2.0}
    sets = SetConfig(**SETS, dropout=0.0, **loss)
    config = DetectorConfig(detector=detector, backbone="container_light_tiny", norm="train", drop_path=0.0, detr=sets)
    model = build_detector(config, 4)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-4, weight_decay=1e-4)
    for step in range(20, limit + 1, 20):
        for _ in range(20):
            optimizer.zero_grad()
            sum(model(images, targets).values()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
        if mean_iou(model, images, targets) >= 0.5:
            return step
    return None


@pytest.mark.slow
@pytest.mark.parametrize(("detector", "limit"), [("smca_detr", 100), ("deformable_detr", 100), ("detr", 300)])
def test_two_images_are_learnt_by_heart(detector: str, limit: int, tmp_path: Path) -> None:
    steps = steps_to_half(detector, *pair(tmp_path), limit)
    print(f"{detector}: IoU 0.5 after {steps} steps")
    assert steps is not None
