"""The one matcher and the one criterion: against exhaustive search and closed forms, and what they refuse."""

import itertools
import math

import pytest
import torch
import torch.distributed as dist

from contagg.detection.detr.config import SetConfig
from contagg.detection.detr.criterion import SetCriterion, average_count
from contagg.detection.detr.matching import Predictions, costs, match
from contagg.errors import UserError

FOCAL = SetConfig(class_loss="focal", class_weight=2.0)
ENTROPY = SetConfig()
CLASSES = 3


def predictions(layers: int = 2, images: int = 2, queries: int = 5, config: SetConfig = FOCAL) -> Predictions:
    torch.manual_seed(3)
    outputs = CLASSES + (config.class_loss == "cross_entropy")
    boxes = 0.2 + 0.6 * torch.rand(layers, images, queries, 4).double()
    return Predictions(torch.randn(layers, images, queries, outputs).double(), boxes)


def target(count: int, **changed: object) -> dict:
    torch.manual_seed(7 + count)
    boxes = 0.2 + 0.6 * torch.rand(count, 4).double()
    return {"labels": torch.arange(count) % CLASSES, "boxes": boxes, **changed}


@pytest.mark.parametrize("config", [FOCAL, ENTROPY], ids=lambda config: config.class_loss)
def test_the_assignment_is_the_cheapest_of_all(config: SetConfig) -> None:
    given, targets = predictions(config=config), [target(3), target(2)]
    found = match(given, targets, config)
    assert len(found.object) == 2 * (3 + 2)
    for layer, image in itertools.product(range(2), range(2)):
        cost = costs(given.logits[:, image], given.boxes[:, image], targets[image], config)[layer]
        mine = (found.layer == layer) & (found.image == image)
        objects = found.object[mine] - 3 * image
        assert sorted(objects.tolist()) == list(range(cost.shape[1]))
        orders = itertools.permutations(range(5), cost.shape[1])
        least = min(sum(cost[query, number].item() for number, query in enumerate(order)) for order in orders)
        assert cost[found.query[mine], objects].sum().item() == pytest.approx(least)


def test_a_cost_is_the_papers_sum() -> None:
    logits, box = torch.tensor([[[0.3, -1.2, 0.4]]]), torch.tensor([[[0.5, 0.5, 0.2, 0.4]]])
    one = {"labels": torch.tensor([1]), "boxes": torch.tensor([[0.6, 0.5, 0.2, 0.4]])}
    chance = 1 / (1 + math.exp(1.2))
    focal = -0.25 * (1 - chance) ** 2 * math.log(chance) + 0.75 * chance**2 * math.log(1 - chance)
    overlap = 1 / 3  # half of each; they fill what encloses them
    expected = 2 * focal + 5 * 0.1 - 2 * overlap
    assert costs(logits, box, one, FOCAL).item() == pytest.approx(expected, abs=1e-6)
    chance = math.exp(-1.2) / sum(map(math.exp, (0.3, -1.2, 0.4)))
    assert costs(logits, box, one, ENTROPY).item() == pytest.approx(-chance + 5 * 0.1 - 2 * overlap, abs=1e-6)


def test_all_four_numbers_of_a_box_count_in_cost_and_loss() -> None:
    """Boxes 0.4 to 0.6, 0.3 to 0.7 and 0.4 to 0.8, 0.3 to 0.5: a third of their union in common, in a square of 0.4."""
    box = torch.tensor([[[0.5, 0.5, 0.2, 0.4]]]).double()
    one = {"labels": torch.tensor([1]), "boxes": torch.tensor([[0.6, 0.4, 0.4, 0.2]]).double()}
    distance, overlap = 0.1 + 0.1 + 0.2 + 0.2, 1 / 3 - (0.16 - 0.12) / 0.16
    certain = torch.tensor([[[-99.0, 99.0, -99.0, -99.0]]]).double()
    assert costs(certain, box, one, ENTROPY).item() == pytest.approx(-1 + 5 * distance - 2 * overlap)
    losses = SetCriterion(ENTROPY, CLASSES)(Predictions(certain[None], box[None]), [one])
    expected = {"loss_class": 0, "loss_box": 5 * distance, "loss_giou": 2 * (1 - overlap)}
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(expected, abs=1e-6)


def test_losses_in_closed_form() -> None:
    """One object, two queries, probabilities of 1 % for all: the class loss on paper; layers add up."""
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.9, 0.9, 0.1, 0.1]]).double()
    one = {"labels": torch.tensor([1]), "boxes": boxes[:1] + torch.tensor([0.1, 0, 0, 0])}
    given = Predictions(torch.full((1, 1, 2, 3), -math.log(99)).double(), boxes[None, None])
    losses = SetCriterion(FOCAL, CLASSES)(given, [one])
    focal = -0.25 * 0.99**2 * math.log(0.01) - 5 * 0.75 * 0.01**2 * math.log(0.99)
    expected = {"loss_class": 2 * focal, "loss_box": 5 * 0.1, "loss_giou": 2 * (1 - 1 / 3)}
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(expected, rel=1e-5)
    twice = SetCriterion(FOCAL, CLASSES)(
        Predictions(*(each.repeat(2, 1, 1, 1) for each in vars(given).values())), [one]
    )
    assert {name: value.item() for name, value in twice.items()} == pytest.approx(
        {name: 2 * value for name, value in expected.items()}, rel=1e-5
    )
    given = Predictions(
        torch.tensor([[[[0.0, 2, 0, 0], [0, 0, 0, 1]]]]).double().repeat(3, 1, 1, 1), boxes.repeat(3, 1, 1, 1)
    )
    entropy = (math.log(3 + math.exp(2)) - 2) + 0.1 * (math.log(3 + math.e) - 1)
    assert SetCriterion(ENTROPY, CLASSES)(given, [one])["loss_class"].item() == pytest.approx(3 * entropy / 1.1)


@pytest.mark.parametrize("config", [FOCAL, ENTROPY], ids=lambda config: config.class_loss)
def test_images_without_objects_have_a_loss_and_gradients(config: SetConfig) -> None:
    given = predictions(config=config)
    for tensor in vars(given).values():
        tensor.requires_grad_()
    losses = SetCriterion(config, CLASSES)(given, [target(0), target(0)])
    assert losses["loss_box"] == losses["loss_giou"] == 0 and losses["loss_class"] > 0
    sum(losses.values()).backward()
    assert all(tensor.grad.isfinite().all() for tensor in vars(given).values())


def test_the_count_is_averaged_over_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five boxes here and two in the other process are 3.5 each."""
    assert average_count(5, torch.device("cpu")) == 5 and average_count(0, torch.device("cpu")) == 1
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda total: total.add_(2))
    assert average_count(5, torch.device("cpu")) == 3.5
    losses = SetCriterion(FOCAL, CLASSES)(predictions(), [target(3), target(2)])
    monkeypatch.undo()
    alone = SetCriterion(FOCAL, CLASSES)(predictions(), [target(3), target(2)])
    for name in losses:
        assert losses[name].item() == pytest.approx(alone[name].item() * 5 / 3.5)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([target(1)], "2 images, but 1 target"),
        ([target(1), target(6, image_id=41)], "target of image 41: it has 6 objects, but there are 5 queries"),
        ([target(1), target(1, labels=torch.tensor([3]))], "target of image 1: labels 3 to 3 must lie between 0 and 2"),
        ([target(1, labels=torch.tensor([-1])), target(0)], "target of image 0: labels -1 to -1 must lie"),
        (
            [target(1, boxes=torch.tensor([[52.0, 40, 20, 8]])), target(0)],
            "image 0: box .52.0, 40.0, 20.0, 8.0. must be",
        ),
        ([target(1, boxes=torch.tensor([[0.5, 0.4, 0, 0.8]])), target(0)], "width and height above 0"),
        ([target(1, boxes=torch.tensor([[0.5, math.nan, 0.1, 0.8]])), target(0)], "as fractions of the image"),
        ([target(2, labels=torch.tensor([1])), target(0)], r"image 0: boxes \(2, 4\) and labels \(1,\) must be"),
    ],
)
def test_bad_targets_are_named(targets: list[dict], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SetCriterion(FOCAL, CLASSES)(predictions(), targets)


def test_answers_that_are_not_finite_are_matched_for_the_loss_to_tell() -> None:
    given = predictions()
    given.logits[0, 0, 2, 1] = math.nan
    assert not SetCriterion(FOCAL, CLASSES)(given, [target(3), target(2)])["loss_class"].isfinite()
