from pathlib import Path

import numpy as np
import pytest
import torch

from contagg.data.coco.annotations import read_annotations
from contagg.data.coco.config import ResizingConfig
from contagg.data.coco.dataset import CocoImages, training_transform
from contagg.data.coco.loaders import AspectRatioSampler, evaluation_loader, train_loader
from contagg.errors import UserError

ASPECTS = np.random.default_rng(0).choice([0.75, 1.0, 1.5], 101)


def batches(epoch: int, batch_size: int, world_size: int, seed: int = 3) -> list[list[int]]:
    """The total batches of an epoch."""
    taken = []
    for rank in range(world_size):
        sampler = AspectRatioSampler(ASPECTS, seed, batch_size=batch_size, rank=rank, world_size=world_size)
        sampler.set_epoch(epoch)
        indices = [index for index, _ in sampler]
        taken.append([indices[i : i + batch_size] for i in range(0, len(indices), batch_size)])
    return [sorted(index for part in parts for index in part) for parts in zip(*taken, strict=True)]


def test_batches_hold_images_of_one_kind_and_no_image_twice() -> None:
    found = batches(0, 4, 1)
    mixed = [batch for batch in found if len({bool(ASPECTS[index] >= 1) for index in batch}) > 1]
    assert len(found) == 101 // 4 and len(mixed) <= 1
    flat = [index for batch in found for index in batch]
    assert len(set(flat)) == len(flat)


def test_the_total_batches_are_the_same_at_any_number_of_processes() -> None:
    assert batches(1, 6, 1) == batches(1, 3, 2) == batches(1, 2, 3)
    assert batches(1, 6, 1) != batches(2, 6, 1)


def test_all_images_come_over_the_epochs() -> None:
    seen = {index for epoch in range(6) for batch in batches(epoch, 4, 1) for index in batch}
    assert seen == set(range(101))


@pytest.fixture
def images(composed: Path) -> CocoImages:
    return CocoImages(
        read_annotations(composed / "annotations/instances_train2017.json", composed / "train2017"), masks=False
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_training_goes_on_where_it_stopped(images: CocoImages, workers: int) -> None:
    transform = training_transform(ResizingConfig(short_sides=(64, 72), long_side=96))

    def digests(loader: object, count: int) -> list[float]:
        found = []
        for pictures, targets in loader:  # type: ignore[attr-defined]
            assert all(type(target["boxes"]) is torch.Tensor for target in targets)
            found.append(sum(picture.double().sum().item() + picture.shape[1] for picture in pictures))
            if len(found) == count:
                break
        return found

    whole = train_loader(images, transform, 4, 0, seed=1)
    expected = digests(whole, 7)
    first = train_loader(images, transform, 4, workers, seed=1)
    assert digests(first, 3) == expected[:3]
    resumed = train_loader(images, transform, 4, workers, seed=1)
    resumed.load_state_dict(first.state_dict())
    assert digests(resumed, 4) == expected[3:]


def test_evaluation_shows_each_image_once_over_all_processes(images: CocoImages) -> None:
    transform = training_transform(ResizingConfig(short_sides=(64,), long_side=96))
    ids = []
    for rank in range(4):
        loader = evaluation_loader(images, transform, 3, 0, rank, 4)
        found = [target["image_id"] for _, targets in loader for target in targets]
        ids += found
        assert len(list(loader)) == 3
    assert sorted(ids) == sorted(image.id for image in images.annotations.images)


def test_a_batch_larger_than_the_data_is_named(images: CocoImages) -> None:
    with pytest.raises(UserError, match="30 training images are fewer than a batch of 32"):
        train_loader(images, training_transform(ResizingConfig()), 16, 0, seed=0, world_size=2)
