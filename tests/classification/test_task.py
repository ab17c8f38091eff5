"""The loss of a step and the metrics of a validation, against the same by hand."""

import pytest
import torch
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from contagg.classification.task import Classification, accuracies
from contagg.data.config import AugmentationConfig
from contagg.data.sampling import IGNORE_INDEX, seed_step
from contagg.data.transforms import mixup
from contagg.models import create
from contagg.training.config import OptimizationConfig

CLASSES = 5


def task(mix: object = None, **options: object) -> Classification:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 7, CLASSES))
    return Classification(
        model,
        OptimizationConfig(epochs=9),
        num_classes=CLASSES,
        label_smoothing=0.1,
        mix=mix,
        channels_last=False,
        **options,
    )


def batch(size: int = 6) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(size, 3, 4, 7), torch.arange(size) % CLASSES


def test_loss_without_mixing_is_timms_smoothed_cross_entropy() -> None:
    learner, (images, labels) = task(), batch()
    loss = learner.training_step((images, labels), 0)["loss"]
    assert loss.item() == pytest.approx(LabelSmoothingCrossEntropy(0.1)(learner.model(images), labels).item())


def test_loss_with_mixing_is_timms_against_mixed_targets() -> None:
    mix = mixup(AugmentationConfig(), CLASSES, 0.1)
    learner, (images, labels) = task(mix), batch()
    seed_step(0, 0, 0, 0)
    loss = learner.training_step((images.clone(), labels), 0)["loss"]
    seed_step(0, 0, 0, 0)
    mixed, targets = mix(images.clone(), labels)
    assert loss.item() == pytest.approx(SoftTargetCrossEntropy()(learner.model(mixed), targets).item())
    assert not torch.equal(mixed, images)


def test_metrics_count_each_image_once_and_ignored_ones_never(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = task()
    monkeypatch.setattr(learner, "log", lambda *_, **__: None)
    images, labels = batch(7)
    labels[2] = IGNORE_INDEX
    with torch.no_grad():
        learner.validation_step((images[:5], labels[:5]), 0)
        learner.validation_step((images[5:], labels[5:]), 1)
        learner.validation_step((images[:2], torch.full((2,), IGNORE_INDEX)), 2)
        logits = learner.model(images)
    counted = labels != IGNORE_INDEX
    right = (logits.argmax(1) == labels)[counted].float().mean()
    losses = nn.functional.cross_entropy(logits[counted], labels[counted])
    assert learner.metrics["accuracy"].compute().item() == pytest.approx(right.item())
    assert learner.metrics["validation_loss"].compute().item() == pytest.approx(losses.item())


def test_accuracy_is_of_images_and_not_of_classes() -> None:
    (metric,) = accuracies(3).values()
    metric.update(torch.eye(3)[[0, 0, 0, 0, 1]], torch.tensor([0, 0, 0, 1, 2]))
    assert metric.compute().item() == pytest.approx(3 / 5)


def test_the_backbone_has_a_rate_of_its_own_and_the_classifier_none() -> None:
    model = create("container_light_tiny", img_size=32, num_classes=CLASSES)
    config = OptimizationConfig(epochs=9, backbone_lr_multiplier=0.25)
    options = {"num_classes": CLASSES, "label_smoothing": 0.0, "mix": None, "channels_last": False}
    groups = Classification(model, config, **options).configure_optimizers().param_groups
    scales = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    classifier = {id(p) for p in model.get_classifier().parameters()}
    assert {scales[id(p)] for p in model.parameters() if id(p) in classifier} == {1.0}
    assert {scales[id(p)] for p in model.parameters() if id(p) not in classifier} == {0.25}


def test_top5_of_many_classes_only() -> None:
    assert list(accuracies(10)) == ["accuracy"]
    many = accuracies(100)["accuracy_top5"]
    logits = torch.arange(100.0).repeat(2, 1)
    many.update(logits, torch.tensor([95, 94]))
    assert many.compute().item() == 0.5
