"""DETR, Deformable DETR and SMCA-DETR as detectors: images and targets in, losses and boxes out."""

import dataclasses
import math
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torchvision.ops import box_iou

from contagg.checkpoints.weights import save_weights
from contagg.data.coco.annotations import Category, read_annotations
from contagg.data.coco.config import ResizingConfig
from contagg.data.coco.dataset import CocoImages, evaluation_transform
from contagg.data.coco.loaders import evaluation_loader
from contagg.detection.config import DETECTION_DEFAULTS, DetectorConfig
from contagg.detection.detectors import Detector, build_detector, features_of
from contagg.detection.detr.config import SET_DETECTORS, SetConfig
from contagg.detection.detr.matching import Predictions
from contagg.detection.detr.network import AttendingCore, SetNetwork, detections
from contagg.detection.evaluation import Collected, add_batch, score
from contagg.detection.saved import describe, load_detector
from contagg.detection.task import scaled_parameters
from contagg.errors import UserError
from contagg.training.optimizer import param_groups

SMALL = {"queries": 7, "width": 32, "heads": 4, "encoder_layers": 1, "decoder_layers": 2, "feedforward": 24}


def config(detector: str, backbone: str = "container_light_tiny", **changed: object) -> DetectorConfig:
    loss = {"class_loss": "cross_entropy" if detector == "detr" else "focal"}
    sets = SetConfig(**(SMALL | loss | changed))
    return DetectorConfig(detector=detector, backbone=backbone, norm="train", drop_path=0.0, detr=sets)


def small(detector: str, classes: int = 3, **changed: object) -> Detector:
    torch.manual_seed(0)
    return build_detector(config(detector, **changed), classes)


def target(boxes: list[list[float]], labels: list[int], **more: object) -> dict:
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64), **more}


def batch() -> tuple[list[torch.Tensor], list[dict]]:
    images = [torch.rand(3, 70, 97), torch.rand(3, 64, 45)]
    return images, [target([[5, 7, 41, 50], [30, 20, 90, 69]], [0, 2]), target([], [])]


def test_smca_adds_this_many_parameters() -> None:
    """At width 256, six layers, a 91-way head: its norms, centre, shifts and scales, less one output."""
    features = features_of(small("detr"))
    numbers = []
    for prior, loss in ((True, "focal"), (False, "cross_entropy")):
        with torch.device("meta"):
            core = AttendingCore(192, SetConfig(class_loss=loss), prior)
            network = SetNetwork(features, core, 91, SetConfig(class_loss=loss), 100)
        numbers.append(sum(p.numel() for p in network.parameters()))
    assert numbers[0] - numbers[1] == 184_257


@pytest.mark.parametrize("detector", SET_DETECTORS)
def test_a_step_on_the_real_backbone_moves_every_parameter(detector: str) -> None:
    model = small(detector, backbone="container_light", width=64)
    images = [torch.rand(3, 128, 160), torch.rand(3, 128, 160)]
    losses = model(images, [target([[5, 7, 41, 50]], [1]), target([[30, 20, 90, 69], [80, 9, 150, 99]], [0, 2])])
    assert set(losses) == {"loss_class", "loss_box", "loss_giou"}
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    # In DETR the first layer's queries have gathered nothing: nothing to attend to, nothing to normalise. Deformable
    # DETR begins with boxes at the reference points and samples around them, whatever the query and the position.
    still = {name for name, parameter in model.named_parameters() if not parameter.grad.any()}
    allowed = ("decoder.layers.0.self_attn", "decoder.layers.0.norm1")
    if detector == "deformable_detr":
        allowed = ("box_head.0", "box_head.2", "level_embed")
    assert all(any(part in name for part in allowed) for name in still), still
    torch.optim.AdamW(model.parameters(), 1e-4).step()
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("detector", SET_DETECTORS)
def test_a_batch_without_objects_trains(detector: str) -> None:
    losses = small(detector)(batch()[0], [target([], []), target([], [])])
    assert math.isfinite(sum(losses.values()).item()) and losses["loss_box"] == 0


@pytest.mark.parametrize("stride", [8, 32])
@pytest.mark.parametrize("detector", SET_DETECTORS)
def test_padding_moves_no_box(detector: str, stride: int) -> None:
    """In float64 an image is answered alike alone and beside a larger one, up to rounding."""
    model = small(detector, stride=stride).double().eval()
    for name, parameter in model.network.core.named_parameters():
        if parameter.dim() > 1 and "sampling" not in name:
            torch.nn.init.normal_(parameter, std=0.3)
    torch.nn.init.normal_(model.network.box_head[-1].weight)
    image, larger = torch.rand(3, 90, 70).double(), torch.rand(3, 160, 224).double()
    with torch.no_grad():
        (alone,), together = model([image]), model([image, larger])[0]
    assert len(alone["boxes"]) == (21 if detector == "deformable_detr" else 7)
    torch.testing.assert_close(together["scores"], alone["scores"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(together["boxes"], alone["boxes"], rtol=0, atol=1e-9)


def perfect(images: list[torch.Tensor], targets: list[dict], focal: bool) -> Predictions:
    """What a network would have to answer: boxes as fractions of each image without padding."""
    queries = max(len(each["labels"]) for each in targets) + 1
    logits, boxes = torch.full((1, len(images), queries, 5), -20.0), torch.full((1, len(images), queries, 4), 0.5)
    logits[..., 4] = 0
    for place, (image, each) in enumerate(zip(images, targets, strict=True)):
        rows, (height, width) = torch.arange(len(each["labels"])), image.shape[1:]
        left, top, right, bottom = each["boxes"].unbind(1)
        sides = [
            (left + right) / 2 / width,
            (top + bottom) / 2 / height,
            (right - left) / width,
            (bottom - top) / height,
        ]
        boxes[0, place, rows], logits[0, place, rows, each["labels"]] = torch.stack(sides, 1), 20.0
    return Predictions(logits[..., :4] if focal else logits, boxes)


@pytest.mark.parametrize("loss", ["focal", "cross_entropy"])
def test_perfect_answers_are_perfect_through_data_and_evaluation(
    composed: Path, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of mixed aspect, resized, padded, answered, scored in the pixels of the files."""
    annotations = read_annotations(composed / "annotations/instances_val2017.json", composed / "val2017")
    transform = evaluation_transform(ResizingConfig(short_sides=(80,)))
    model = small("smca_detr", classes=4, class_loss=loss)
    collected, ids = Collected(), [category.id for category in annotations.categories]
    shapes = set()
    for images, targets in evaluation_loader(CocoImages(annotations, False), transform, 4, 0):
        shapes.add(frozenset(image.shape for image in images))
        answer = Mock(return_value=perfect(images, targets, loss == "focal"))
        monkeypatch.setattr(model.network, "predict", answer)
        losses = model.train()(images, targets)
        assert losses["loss_box"] < 1e-4 and losses["loss_giou"] < 1e-4
        found = model.eval()(images)
        for detected, each in zip(found, targets, strict=True):
            kept = detected["scores"] > 0.5
            assert kept.sum() == len(each["labels"])
            for box, label in zip(each["boxes"], each["labels"], strict=True):
                assert box_iou(box[None], detected["boxes"][kept & (detected["labels"] == label)]).max() >= 0.999
        add_batch(collected, found, images, targets, ids)
    assert max(map(len, shapes)) > 1
    assert score(annotations, collected, ["box"])["box_ap"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("detector", SET_DETECTORS)
def test_boxes_are_formed_in_float32_under_autocast(detector: str) -> None:
    """bfloat16 has 8 bits: at 1333 pixels a box would move by 3 of them."""
    model = small(detector).eval()
    head = model.network.box_head
    torch.nn.init.normal_(head[-1].weight)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    head.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        predictions = model.network.predict(torch.rand(1, 3, 64, 96), [(64, 96)])
    given, got = seen[0]
    assert got.dtype == torch.float32 and predictions.boxes.dtype == torch.float32
    with torch.no_grad():
        assert torch.equal(head(given.float()), got)


@pytest.mark.parametrize("detector", ["smca_detr", "deformable_detr"])
def test_boxes_begin_where_their_queries_look(detector: str) -> None:
    """Each layer's boxes lie around one place a query, before anything is learnt of them."""
    network = small(detector).eval().network
    torch.nn.init.zeros_(network.box_head[-1].weight)
    torch.nn.init.zeros_(network.box_head[-1].bias)
    centres: list[torch.Tensor] = []
    network.core.register_forward_hook(lambda module, inputs, output: centres.append(output[1]))
    with torch.no_grad():
        boxes = network.predict(torch.rand(2, 3, 64, 96), [(64, 96)] * 2).boxes
    torch.testing.assert_close(boxes[..., :2], centres[0].sigmoid().expand(2, -1, -1, -1))
    assert boxes[0, 0, :, 0].std() > 1e-3 and torch.equal(boxes[..., 2:], torch.full_like(boxes[..., 2:], 0.5))


@pytest.mark.parametrize(("detector", "expected"), [("detr", 7), ("smca_detr", 7), ("deformable_detr", 21)])
def test_as_many_are_kept_as_the_authors_keep_or_the_recipe_says(detector: str, expected: int) -> None:
    """SMCA's best pairs of query and class are as many as its queries; Deformable DETR's 100, or all where fewer."""
    images = [torch.rand(3, 64, 96)]
    assert len(small(detector).eval()(images)[0]["scores"]) == expected
    chosen = dataclasses.replace(config(detector), detections_per_image=5)
    assert len(build_detector(chosen, 3).eval()(images)[0]["scores"]) == 5


def test_detections_are_the_originals_choice() -> None:
    """Focal: the best pairs of query and class. Cross entropy: each query's likeliest class but "no object"."""
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.25, 0.5, 0.6, 0.2]])[None, None]
    logits = torch.tensor([[3.0, 2.0, -9.0], [-9.0, 1.0, 0.5]])[None, None]
    found = detections(Predictions(logits, boxes), [(50, 100)], "focal", 100)[0]
    assert found["labels"].tolist()[:3] == [0, 1, 1]
    assert found["scores"].tolist()[:3] == pytest.approx([1 / (1 + math.exp(-value)) for value in (3, 2, 1)])
    assert found["boxes"][2].tolist() == pytest.approx([0, 20, 55, 30])  # cut at the image's edge
    found = detections(Predictions(logits, boxes), [(50, 100)], "cross_entropy", 100)[0]
    assert found["labels"].tolist() == [0, 1] and found["boxes"][0].tolist() == pytest.approx([40, 20, 60, 30])
    likely_nothing = Predictions(torch.tensor([[[[0.0, 1.0, 2.0]]]]), boxes[:, :, :1])
    found = detections(likely_nothing, [(50, 100)], "cross_entropy", 100)[0]
    assert found["labels"].tolist() == [1]
    assert found["scores"].item() == pytest.approx(math.e / (1 + math.e + math.e**2))
    many = Predictions(torch.randn(1, 1, 150, 3), torch.rand(1, 1, 150, 4))
    for loss in ("focal", "cross_entropy"):
        assert len(detections(many, [(50, 100)], loss, 100)[0]["scores"]) == 100


@pytest.mark.parametrize("detector", SET_DETECTORS)
def test_states_survive_saving(detector: str, tmp_path: Path) -> None:
    model = small(detector).eval()
    categories = tuple(Category(number, str(number)) for number in (1, 3, 90))
    resizing = ResizingConfig(short_sides=(64,), crop=0.5)
    path = tmp_path / "model.safetensors"
    save_weights(path, model.state_dict(), describe(config(detector), categories, resizing))
    saved = load_detector(path)
    assert saved.resizing == resizing and saved.model.network.config == model.network.config
    assert set(saved.model.state_dict()) == set(model.state_dict())
    assert all(torch.equal(value, saved.model.state_dict()[name]) for name, value in model.state_dict().items())
    image = [torch.rand(3, 64, 96)]
    with torch.no_grad():
        first, second = model(image)[0], saved.model(image)[0]
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_more_objects_than_queries_names_both_numbers_and_the_image() -> None:
    boxes = [[5.0, 7, 41, 50]] * 8
    with pytest.raises(UserError, match="target of image 77: it has 8 objects, but there are 7 queries"):
        small("smca_detr")([torch.rand(3, 64, 96)], [target(boxes, [1] * 8, image_id=77)])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"boxes": torch.tensor([[0.1, 0.2, 0.5, 1.0]])}, "must be in pixels, not fractions"),
        ({"labels": torch.tensor([1.0])}, "labels are torch.float32, whole numbers were expected"),
        ({"boxes": None}, "it has no 'boxes'"),
        ({"labels": None}, "it has no 'labels'"),
    ],
)
def test_bad_targets_name_the_image(changed: dict, message: str) -> None:
    given = {
        key: value for key, value in (target([[5, 7, 41, 50]], [1], image_id=77) | changed).items() if value is not None
    }
    with pytest.raises(UserError, match=f"target of image 77: .*{message}"):
        small("smca_detr")([torch.rand(3, 64, 96)], [given])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"queries": 0}, "model.detr.queries must be at least 1, not 0"),
        ({"stride": 12}, "model.detr.stride must be one of 4, 8, 16, 32, not 12"),
        ({"width": 30}, "model.detr.width 30 must be a multiple of 4 and of model.detr.heads 4"),
        ({"dropout": 1.0}, "model.detr.dropout must lie in"),
        ({"class_weight": 0.0}, "model.detr.class_weight must be above 0"),
    ],
)
def test_bad_sets_are_named(changed: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SetConfig(**(SMALL | changed))


def test_rates_of_backbone_and_sampling() -> None:
    """Every parameter once; the groups' scales survive saving, which a run that goes on relies on."""
    model = small("deformable_detr")
    rates = {"lr": 2e-4, "backbone_lr_multiplier": 0.1, "sampling_lr_multiplier": 0.2}
    optimization = replace(DETECTION_DEFAULTS, **rates, weight_decay_for="all", weight_decay=1e-4)
    scaled = scaled_parameters(model, optimization)
    groups = param_groups(model, optimization, scaled)
    assert [group["lr_scale"] for group in groups] == [1.0, 0.1, 0.2]
    assert {group["weight_decay"] for group in groups} == {1e-4}
    assert sorted(id(p) for group in groups for p in group["params"]) == sorted(map(id, model.parameters()))
    assert {id(p) for p in groups[1]["params"]} == {id(p) for p in features_of(model).parameters()}
    slow = {name.rpartition(".")[0] for name, p in model.named_parameters() if any(p is q for q in groups[2]["params"])}
    assert {name.rpartition(".")[2] for name in slow} == {"reference_points", "sampling_offsets"} and len(slow) == 4
    optimizer, other = (torch.optim.AdamW(param_groups(model, optimization, scaled)) for _ in range(2))
    other.load_state_dict(optimizer.state_dict())
    assert [group["lr_scale"] for group in other.param_groups] == [1.0, 0.1, 0.2]
    plain = param_groups(model, DETECTION_DEFAULTS, scaled_parameters(model, DETECTION_DEFAULTS))
    assert [(group["lr_scale"], group["weight_decay"]) for group in plain] == [(1.0, 0.0), (1.0, 0.05)]
