import math

import pytest
import torch
from detector_cost import multiply_adds
from torchvision.ops import box_iou

from contagg.benchmark.cost import parameter_count
from contagg.detection.config import DetectorConfig
from contagg.detection.detectors import Detector, build_detector
from contagg.errors import UserError

TINY = {"backbone": "container_light_tiny", "pyramid_channels": 16, "anchor_size": 16, "norm": "train", "proposals": 50}
DETECTORS = ("retinanet", "mask_rcnn")


def tiny(detector: str, classes: int = 3, **changed: object) -> Detector:
    torch.manual_seed(0)
    return build_detector(DetectorConfig(detector=detector, **(TINY | changed)), classes)


def target(size: tuple[int, int], boxes: list[list[float]], labels: list[int]) -> dict:
    masks = torch.zeros(len(boxes), *size, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[int(top) : int(bottom), int(left) : int(right)] = 1
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "masks": masks,
    }


def batch() -> tuple[list[torch.Tensor], list[dict]]:
    images = [torch.rand(3, 70, 97), torch.randint(0, 255, (3, 64, 45), dtype=torch.uint8)]
    return images, [target((70, 97), [[5, 7, 41, 50], [40, 3, 90, 60]], [0, 2]), target((64, 45), [], [])]


@pytest.mark.parametrize(
    ("backbone", "detector", "parameters", "trainable", "giga"),
    [
        # The rows of Table 4: 29.7M and 218, 39.6M and 237; ResNet-50 (there with stem and stage 1 frozen): 37.7M, 239.
        ("container_light", "retinanet", 29_744_186, 29_724_986, 218.27),
        ("container_light", "mask_rcnn", 39_665_979, 39_646_779, 236.85),
        ("resnet50", "retinanet", 37_968_692, 37_915_572, 238.54),
        ("resnet50", "mask_rcnn", 44_400_693, 44_347_573, 259.34),
    ],
)
def test_table_4(backbone: str, detector: str, parameters: int, trainable: int, giga: float) -> None:
    config = DetectorConfig(detector=detector, backbone=backbone, init_weights="a file", norm="frozen")
    model = build_detector(config, 80)
    assert parameter_count(model) == parameters and parameter_count(model, trainable_only=True) == trainable
    assert multiply_adds(model, (800, 1280)) == pytest.approx(giga * 1e9, rel=1e-4)


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_step_reaches_every_parameter(detector: str) -> None:
    model = tiny(detector)
    losses = model(*batch())
    assert all(math.isfinite(loss.item()) for loss in losses.values())
    sum(losses.values()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not without


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_batch_without_objects_trains(detector: str) -> None:
    images, _ = batch()
    losses = tiny(detector)(images, [target((70, 97), [], []), target((64, 45), [], [])])
    total = sum(losses.values())
    assert math.isfinite(total.item())
    total.backward()


@pytest.mark.parametrize("detector", DETECTORS)
def test_labels_begin_at_0_on_both_sides(detector: str) -> None:
    """After training towards label 0, label 0 is what is found, where the object is in the image's pixels."""
    model = tiny(detector, norm="train", drop_path=0.0)
    image = torch.zeros(3, 64, 96)
    image[:, 20:52, 30:70] = torch.tensor([0.9, 0.1, 0.5])[:, None, None]
    truth = target((64, 96), [[30, 20, 70, 52]], [0])
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(40):
        optimizer.zero_grad()
        sum(model([image, image], [truth, truth]).values()).backward()
        optimizer.step()
    found = model.eval()([image])[0]
    assert found["labels"][0] == 0
    assert box_iou(found["boxes"][:1], truth["boxes"]).item() > 0.4
    assert len(found["boxes"]) <= 100
    if detector == "mask_rcnn":
        assert found["masks"].shape[1:] == (1, 28, 28)


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("size", [(40, 30), (33, 250), (96, 64)])
def test_strides_are_exact_at_every_level(detector: str, size: tuple[int, int]) -> None:
    network = tiny(detector).eval().network
    images, _ = network.transform([torch.rand(3, *size)])
    levels = network.backbone(images.tensors)
    height, width = images.tensors.shape[2:]
    assert (height % 32, width % 32) == (0, 0)
    first = 8 if detector == "retinanet" else 4
    anchors = network.anchor_generator if detector == "retinanet" else network.rpn.anchor_generator
    (boxes,) = anchors(images, list(levels.values()))
    shapes = 9 if detector == "retinanet" else 3
    begin = 0
    for number, level in enumerate(levels.values()):
        stride = first * 2**number
        rows, columns = -(-height // stride), -(-width // stride)
        assert level.shape[2:] == (rows, columns)
        centres = (
            boxes[begin : begin + rows * columns * shapes, :2] + boxes[begin : begin + rows * columns * shapes, 2:]
        ) / 2
        grid = (
            torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).flip(1).repeat_interleave(shapes, 0)
            * stride
        )
        assert torch.equal(centres, grid.float())
        begin += rows * columns * shapes
    assert begin == len(boxes)


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("size", [(128, 96), (90, 70)])
def test_padding_moves_no_box(detector: str, size: tuple[int, int]) -> None:
    """In float64 an image is answered alike alone and beside a larger one, up to rounding."""
    model = tiny(detector, pyramid_channels=32, proposals=100).double().eval()
    for name, parameter in model.named_parameters():
        if "features" not in name:
            spread = 0.05 if "logits" in name or "bbox" in name or "predictor" in name else parameter[0].numel() ** -0.5
            torch.nn.init.normal_(parameter, std=min(spread, 0.5))
    model.network.score_thresh = 0.0
    if detector == "mask_rcnn":
        model.network.roi_heads.score_thresh = 0.0
    image, larger = torch.rand(3, *size).double(), torch.rand(3, 160, 224).double()
    with torch.no_grad():
        (alone,), together = model([image]), model([image, larger])[0]
    assert len(alone["boxes"]) == len(together["boxes"]) == 100
    torch.testing.assert_close(together["scores"], alone["scores"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(together["boxes"], alone["boxes"], rtol=0, atol=1e-9)


def test_anchors_have_the_papers_sizes() -> None:
    """A third of an octave apart in RetinaNet, an octave in Mask R-CNN, each in three shapes of one area."""
    retinanet = tiny("retinanet", anchor_size=32).network.anchor_generator.cell_anchors
    mask_rcnn = tiny("mask_rcnn", anchor_size=32).network.rpn.anchor_generator.cell_anchors
    for level in range(5):
        for cells, sizes in (
            (retinanet, [32 * 2 ** (level + third / 3) for third in range(3)]),
            (mask_rcnn, [32 * 2**level]),
        ):
            width, height = (cells[level][:, 2:] - cells[level][:, :2]).unbind(1)
            expected = sorted(float(size) for size in sizes * 3)
            assert sorted((width * height).sqrt().tolist()) == pytest.approx(expected, rel=0.06)
            shapes = [shape for shape in (0.5, 1.0, 2.0) for _ in sizes]
            assert sorted((height / width).tolist()) == pytest.approx(shapes, rel=0.1)


@pytest.mark.parametrize(("channels", "low", "high"), [(64, 0.3, 2.0), (256, 0.005, 0.02)])
def test_a_narrow_head_of_retinanet_keeps_the_signal(channels: int, low: float, high: float) -> None:
    """At 256 channels it starts as torchvision's and the paper's; that start would leave 0.001 of 64."""
    head = tiny("retinanet", pyramid_channels=channels).network.head
    level = torch.randn(1, channels, 23, 19)
    for part in (head.classification_head.conv, head.regression_head.conv):
        assert low < part(level).std().item() < high


IMAGE = torch.rand(3, 64, 96)
GOOD = target((64, 96), [[5, 7, 41, 50]], [1])


@pytest.mark.parametrize(
    ("image", "changed", "message"),
    [
        (255 * IMAGE, {}, "image 0 is torch.float32 from .* uint8, or floats from 0 to 1"),
        (IMAGE[:1], {}, r"image 0 has the shape \(1, 64, 96\)"),
        (torch.rand(4, 64, 96), {}, r"the shape \(4, 64, 96\)"),
        (torch.where(IMAGE > 0.99, torch.nan, IMAGE), {}, "image 0 is torch.float32 from nan"),
        (IMAGE, {"masks": torch.zeros(1, 64, 64)}, r"masks are \(1, 64, 64\), \(1, 64, 96\) were expected"),
        (IMAGE, {"boxes": torch.tensor([[5.0, 7, 120, 50]])}, r"box \[5.0, 7.0, 120.0, 50.0\] lies outside the image"),
        (IMAGE, {"boxes": torch.tensor([[5.0, torch.nan, 41, 50]])}, "a box is not finite"),
        (IMAGE, {"boxes": torch.tensor([[5.0, 7, 5, 50]])}, "has no width or height"),
        (IMAGE, {"labels": torch.tensor([-1])}, "labels -1 to -1 must lie between 0 and 2"),
        (IMAGE, {"labels": torch.tensor([3])}, "labels 3 to 3 must lie between 0 and 2"),
        (IMAGE, {"labels": torch.tensor([1, 1])}, r"boxes \(1, 4\) and labels \(2,\)"),
        (IMAGE, {"image_id": 77, "labels": torch.tensor([9])}, "target of image 77"),
    ],
)
def test_bad_batches_are_named(image: torch.Tensor, changed: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny("mask_rcnn")([image], [GOOD | changed])


def test_batches_that_are_none_are_named() -> None:
    model = tiny("retinanet")
    with pytest.raises(UserError, match="a batch without images"):
        model([], [])
    with pytest.raises(UserError, match="1 image, but 0 targets"):
        model([IMAGE])


def test_states_survive_saving(tmp_path) -> None:
    model = tiny("mask_rcnn")
    other = tiny("mask_rcnn", classes=3)
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    image = [torch.rand(3, 64, 96)]
    with torch.no_grad():
        first, second = model.eval()(image)[0], other.eval()(image)[0]
    assert all(torch.equal(first[key], second[key]) for key in first)
