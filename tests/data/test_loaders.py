"""Batches depend on nothing but keys; a loader goes on anywhere; evaluation counts each image once."""

import logging
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from photographs import piece
from test_sources import hugging_face, web_dataset

from contagg.data import loaders
from contagg.data.config import AugmentationConfig, DataConfig
from contagg.data.datasets import MemoryImages
from contagg.data.sampling import IGNORE_INDEX, KeyedDataset
from contagg.data.sources import ImageData, open_data
from contagg.data.transforms import evaluation_transform, train_transform
from contagg.errors import UserError

MakeFolder = Callable[..., Path]
Batches = list[tuple[torch.Tensor, torch.Tensor]]

SIZE, MEAN, STD = (3, 19, 23), (0.4,) * 3, (0.25,) * 3
DEIT = AugmentationConfig()
SMALL = AugmentationConfig(crop="padded", auto_augment=None, color_jitter=0, padding=2)


def equal(one: Batches, other: Batches) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(one, other, strict=True)
    )


def memory(count: int = 37) -> MemoryImages:
    images = np.stack([np.asarray(piece(number, size=(23, 19))) for number in range(count)])
    return MemoryImages(images, np.arange(count) % 5)


def training(
    data: object, augmentation: AugmentationConfig = DEIT, workers: int = 0, **options: object
) -> loaders.TrainLoader:
    options = {"batch_size": 4, "seed": 11, "max_corrupt_fraction": 0.0} | options
    return loaders.train_loader(data, train_transform(augmentation, SIZE, MEAN, STD), workers=workers, **options)  # type: ignore


def evaluating(
    data: object, workers: int = 0, augmentation: AugmentationConfig = DEIT, **options: object
) -> loaders.ImageLoader:
    options = {"batch_size": 4, "max_corrupt_fraction": 0.0} | options
    return loaders.evaluation_loader(
        data, evaluation_transform(augmentation, SIZE, MEAN, STD), workers=workers, **options
    )  # type: ignore


def epochs(loader: loaders.TrainLoader, *numbers: int) -> Batches:
    batches = []
    for number in numbers:
        loader.sampler.set_epoch(number)
        batches += list(loader)
    return batches


def folder_data(image_folder: MakeFolder) -> ImageData:
    return open_data(DataConfig(name="folder", root=str(image_folder(train=9, val=4))))


def tar_data(image_folder: MakeFolder) -> ImageData:
    root = image_folder(train=9, val=4)
    for split in ("train", "val"):
        with tarfile.open(root / f"{split}.tar", "w") as tar:
            tar.add(root / split, arcname=".")
    return open_data(DataConfig(name="tar", root=str(root)))


@pytest.mark.parametrize("open_kind", [folder_data, tar_data])
def test_workers_change_nothing(image_folder: MakeFolder, open_kind: Callable[[MakeFolder], ImageData]) -> None:
    data = open_kind(image_folder)
    without = training(data.train)
    first = epochs(without, 0, 1)
    assert len(first) == 8 and not equal(first[:4], first[4:])
    assert equal(first, epochs(training(data.train, workers=2), 0, 1))
    assert equal(first, epochs(without, 0, 1))
    assert not equal(first, epochs(training(data.train, seed=12), 0, 1))
    assert equal(list(evaluating(data.validation)), list(evaluating(data.validation, workers=2)))


def test_workers_change_nothing_for_hugging_face_data(tmp_path: Path) -> None:
    name = hugging_face(tmp_path / "set", [0, 1, 1, 0, 1, 0, 0, 1, 1])
    data = open_data(DataConfig(name=name, root=str(tmp_path / "cache")))
    assert equal(epochs(training(data.train), 0), epochs(training(data.train, workers=2), 0))


def test_workers_change_nothing_for_images_in_memory() -> None:
    assert equal(epochs(training(memory(), SMALL), 0, 1), epochs(training(memory(), SMALL, workers=2), 0, 1))


def test_images_in_memory_keep_their_labels() -> None:
    data = memory()
    plain = AugmentationConfig(
        crop="padded", auto_augment=None, color_jitter=0, erasing=0, padding=0, horizontal_flip=0
    )
    evaluate = evaluation_transform(plain, SIZE, MEAN, STD)
    wanted = {evaluate(data[index][0]).numpy().tobytes(): data[index][1] for index in range(len(data))}
    seen = [
        (image.numpy().tobytes(), int(label))
        for images, labels in training(data, plain)
        for image, label in zip(images, labels, strict=True)
    ]
    assert len(seen) == 36 and all(wanted[image] == label for image, label in seen)


def test_workers_do_not_share_an_open_tar(image_folder: MakeFolder) -> None:
    data = tar_data(image_folder).train
    data[0]  # opens it here, before the workers are forked
    assert equal(epochs(training(data, SMALL), *range(6)), epochs(training(data, SMALL, workers=2), *range(6)))


@pytest.mark.parametrize("augmentation", [DEIT, SMALL], ids=["deit", "small"])
@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (2, 1)])
def test_goes_on_exactly_where_it_stopped(augmentation: AugmentationConfig, before: int, after: int) -> None:
    whole = epochs(training(memory(), augmentation), 3, 4)
    killed = training(memory(), augmentation, workers=before)
    killed.sampler.set_epoch(3)
    batches = iter(killed)
    for _ in range(5):
        next(batches)
    state = pickle.loads(pickle.dumps(killed.state_dict()))
    assert state == {"epoch": 3, "batch": 5, "total_batch": 4}
    resumed = training(memory(), augmentation, workers=after)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state and len(resumed) == 9
    counted = []
    for number, batch in enumerate(resumed, start=6):  # the number of batches since the epoch began
        assert resumed.state_dict() == {"epoch": 3, "batch": number, "total_batch": 4}
        counted.append(batch)
    assert equal(counted + epochs(resumed, 4), whole[5:])


def test_state_at_the_ends_of_an_epoch() -> None:
    loader = training(memory())
    assert loader.state_dict()["batch"] == 0
    assert len(epochs(loader, 0)) == 9
    assert loader.state_dict() == {"epoch": 0, "batch": 9, "total_batch": 4}
    loader.sampler.set_epoch(1)
    assert loader.state_dict() == {"epoch": 1, "batch": 0, "total_batch": 4}
    resumed = training(memory())
    resumed.load_state_dict({"epoch": 0, "batch": 9, "total_batch": 4})
    assert epochs(resumed, 0) == [] and equal(epochs(resumed, 1), epochs(loader, 1))


def test_the_epoch_may_be_set_after_the_iterator_is_made() -> None:
    for workers in (0, 2):
        loader = training(memory(), workers=workers)
        batches = iter(loader)
        loader.sampler.set_epoch(6)
        assert equal(list(batches), epochs(training(memory()), 6))


def test_another_total_batch_cannot_go_on() -> None:
    state = training(memory()).state_dict()
    training(memory(), batch_size=2, world_size=2).load_state_dict(state)
    with pytest.raises(UserError, match="the run had batches of 4 images over all processes, now of 8: set"):
        training(memory(), world_size=2).load_state_dict(state)


def test_two_processes_share_the_batches_of_one() -> None:
    alone = training(memory(), SMALL)
    pair = [training(memory(), SMALL, batch_size=2, rank=rank, world_size=2) for rank in (0, 1)]
    for (images, labels), (first, labels_first), (second, labels_second) in zip(alone, *pair, strict=True):
        assert torch.equal(images[0::2], first) and torch.equal(images[1::2], second)
        assert torch.equal(labels[0::2], labels_first) and torch.equal(labels[1::2], labels_second)


@pytest.mark.parametrize("augmentation", [DEIT, SMALL], ids=["deit", "small"])
@pytest.mark.parametrize(("count", "world_size"), [(8, 3), (7, 2), (3, 5), (9, 1)])
def test_evaluation_counts_each_image_once(count: int, world_size: int, augmentation: AugmentationConfig) -> None:
    data = MemoryImages(np.zeros((count, 8, 8), dtype=np.uint8), np.arange(count))
    shares = [
        list(evaluating(data, 0, augmentation, batch_size=2, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert len({len(share) for share in shares}) == 1
    labels = torch.cat([labels for share in shares for _, labels in share])
    assert sorted(labels[labels != IGNORE_INDEX].tolist()) == list(range(count))
    assert (labels == IGNORE_INDEX).sum() == -count % world_size


def broken_data(image_folder: MakeFolder) -> ImageData:
    """One of 20 training images is empty, one of 10 validation images cut off."""
    root = image_folder(train=10, val=5)
    (root / "train/china/china 0.png").write_bytes(b"")
    broken = root / "val/flower/flower 2.JPEG"
    broken.write_bytes(broken.read_bytes()[:-100])
    return open_data(DataConfig(name="folder", root=str(root)))


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_skipped_counted_and_named(
    image_folder: MakeFolder, workers: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # To where workers write, too.
    monkeypatch.setattr(logging.getLogger("contagg"), "handlers", [logging.StreamHandler()])
    data = broken_data(image_folder)
    loader = training(data.train, workers=workers, max_corrupt_fraction=0.05)
    batches = epochs(loader, 0, 1)
    assert len(batches) == 10 and all((labels >= 0).all() for _, labels in batches)
    assert [data.train.name(index) for index in loader.unreadable] == ["china/china 0.png"]
    evaluation = evaluating(data.validation, workers, max_corrupt_fraction=0.1)
    labels = torch.cat([labels for _, labels in evaluation]).tolist()
    assert labels == [0, 0, 0, 0, 0, 1, 1, 1, IGNORE_INDEX, 1]
    assert [data.validation.name(index) for index in evaluation.unreadable] == ["flower/flower 2.JPEG"]
    told = capfd.readouterr().err
    assert "china/china 0.png: cannot identify" in told and "flower/flower 2.JPEG: image file is truncated" in told
    assert equal(batches, epochs(training(data.train, max_corrupt_fraction=0.05), 0, 1))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_too_many_unreadable_images_stop_with_one_line(image_folder: MakeFolder, split: str, workers: int) -> None:
    data = getattr(broken_data(image_folder), split)
    loader = (training if split == "train" else evaluating)(data, workers=workers, max_corrupt_fraction=0.001)
    with pytest.raises(UserError) as caught:
        list(loader)
    message = str(caught.value)
    assert message.startswith(
        f"1 of {len(data)} images cannot be read, more than data.max_corrupt_fraction 0.001 allows: "
    )
    assert ("china/china 0.png: cannot" if split == "train" else "flower/flower 2.JPEG: image file") in message
    assert "\n" not in message


def test_fewer_images_than_a_batch_are_refused() -> None:
    with pytest.raises(UserError, match=r"37 training images are fewer than a batch of 40 \(20 x 2 processes\)"):
        training(memory(), batch_size=20, world_size=2)
    assert len(training(memory(), batch_size=37)) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_leaves_the_generators_alone(workers: int) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    list(evaluating(memory(9), workers))
    assert torch.equal(torch.get_rng_state(), state)


def test_everything_can_be_sent_to_a_worker_that_is_not_forked(image_folder: MakeFolder) -> None:
    for data, augmentation in ((folder_data(image_folder).train, DEIT), (memory(), SMALL)):
        dataset = KeyedDataset(data, train_transform(augmentation, SIZE, MEAN, STD))
        copy = pickle.loads(pickle.dumps(dataset))
        assert torch.equal(dataset.__getitems__([(3, 5)])[0], copy.__getitems__([(3, 5)])[0])
    assert pickle.loads(pickle.dumps(loaders._as_it_is)) is loaders._as_it_is


def test_an_error_in_a_worker_is_still_one_line(tmp_path: Path) -> None:
    data = open_data(web_dataset(tmp_path, [0, 1, 2, 1, 3]))
    with pytest.raises(UserError, match=r"^data: the stream has the label 3, but with 3 classes labels are 0 to 2$"):
        list(evaluating(data.validation, workers=2))
