"""Streams of shards (WebDataset): whole batches, other shards for other readers, and a way back into an epoch."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from photographs import piece
from PIL import Image
from test_loaders import SMALL, epochs, equal, evaluating, training
from test_sources import web_dataset

from contagg.data.config import DataConfig
from contagg.data.loaders import StreamLoader
from contagg.data.sources import open_data
from contagg.data.streams import ImageStream
from contagg.errors import UserError

LABELS = [0, 1, 2, 1, 0, 1, 2, 0, 0, 1, 1]


def stream(folder: Path, shards: int = 2, labels: list[int] = LABELS) -> ImageStream:
    """Opened anew, as another process would."""
    folder.mkdir(exist_ok=True)
    return open_data(web_dataset(folder, labels, shards)).train


@pytest.mark.parametrize("workers", [0, 2])
def test_streams_make_whole_batches_shuffled_anew(tmp_path: Path, workers: int) -> None:
    data = open_data(web_dataset(tmp_path, [0, 1, 2, 1, 0, 1, 2, 0, 0, 1, 1]))
    loader = training(data.train, SMALL, workers=workers)
    orders = []
    for epoch in range(4):
        loader.sampler.set_epoch(epoch)  # as Lightning does
        batches = list(loader)
        assert len(batches) == len(loader) and all(len(labels) == 4 for _, labels in batches)
        orders.append(tuple(torch.cat([labels for _, labels in batches]).tolist()))
    assert len(set(orders)) > 1
    labels = torch.cat([labels for _, labels in evaluating(data.validation, workers)])
    assert sorted(labels.tolist()) == [0] * 4 + [1] * 5 + [2] * 2


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_goes_on_in_the_midst_of_a_later_epoch(tmp_path: Path, workers: int) -> None:
    whole = training(stream(tmp_path), workers=workers)
    expected = epochs(whole, 0, 1, 2)
    cut = training(stream(tmp_path), workers=workers)
    epochs(cut, 0)
    cut.sampler.set_epoch(1)
    batches = iter(cut)
    next(batches)
    state = cut.state_dict()
    assert state == {"epoch": 1, "batch": 1, "readers": max(workers, 1)}
    again = training(stream(tmp_path), workers=workers)
    assert isinstance(again, StreamLoader)
    again.load_state_dict(state)
    assert again.state_dict() == state
    per_epoch = len(expected) // 3
    assert per_epoch >= 3
    assert equal(epochs(again, 1, 2), expected[per_epoch + 1 :])
    assert not equal(expected[:per_epoch], expected[per_epoch : 2 * per_epoch])


def test_a_stream_varies_images_by_epoch_and_process(tmp_path: Path) -> None:
    """Each of two processes sees the one image of its shard, four times an epoch, never the same way."""
    labels = [0, 0]
    seen = []
    for rank in (0, 1):
        loader = training(stream(tmp_path, labels=labels), batch_size=4, rank=rank, world_size=2)
        seen += [image for images, _ in epochs(loader, 0, 1) for image in images]
    assert len(seen) == 16
    assert len({image.numpy().tobytes() for image in seen}) == 16


def test_two_processes_read_other_shards_and_make_equally_many_batches(tmp_path: Path) -> None:
    labels = [0, 1] * 11  # the first shard has the zeros, the second the ones
    one, other = (training(stream(tmp_path, labels=labels), rank=rank, world_size=2) for rank in (0, 1))
    ours, theirs = ([label for _, batch in epochs(loader, 0) for label in batch.tolist()] for loader in (one, other))
    assert len(ours) == len(theirs) == 4 * len(one) == 4 * len(other)
    assert sorted([set(ours), set(theirs)], key=sum) == [{0}, {1}]


def test_fewer_shards_than_readers_are_refused(tmp_path: Path) -> None:
    message = r"2 shards are fewer than 4 readers \(2 processes x 2 workers\): lower run\.workers, or make more shards"
    with pytest.raises(UserError, match=message):
        training(stream(tmp_path), workers=2, world_size=2)
    with pytest.raises(UserError, match="2 shards are fewer than 3 readers"):
        evaluating(stream(tmp_path), workers=3)


def test_other_readers_cannot_go_on_in_an_epoch(tmp_path: Path) -> None:
    state = {"epoch": 1, "batch": 1, "readers": 1}
    loader = training(stream(tmp_path), workers=2)
    with pytest.raises(
        UserError, match=r"as many readers \(processes x workers\) as before: 1, not 2; set run\.workers"
    ):
        loader.load_state_dict(state)
    loader.load_state_dict(state | {"batch": len(loader)})
    assert torch.is_tensor(epochs(loader, 2)[0][0])


def test_shards_made_as_the_document_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("webdataset")
    monkeypatch.chdir(tmp_path)
    for split, count in (("train", 7), ("val", 3)):
        for number in range(2 * count):
            folder = tmp_path / "imagenet" / split / f"class {number % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            piece(number).save(folder / f"{split}_{number // 2}.JPEG")  # the stems of two classes are equal
    document = Path(__file__).parents[2] / "docs" / "many-machines.md"
    code = re.search(r"```python\n(.*?)```", document.read_text(), re.DOTALL)[1]
    exec(code.replace("maxcount=1300", "maxcount=4"), {})
    names = {"train_split": "imagenet-train-{0000..0003}.tar|14", "validation_split": "imagenet-val-{0000..0001}.tar|6"}
    data = open_data(DataConfig(name="wds/", root=str(tmp_path / "shards"), classes=2, **names))
    for images, count in ((data.train, 7), (data.validation, 3)):
        assert sorted(label for _, label in images) == [0] * count + [1] * count
        assert len({np.asarray(image).tobytes() for image, _ in images}) == 2 * count
    assert len(training(data.train, workers=2)) * 4 >= 14
    one = next(iter(data.validation))
    originals = {np.asarray(Image.open(path)).tobytes(): path for path in tmp_path.rglob("val_*.JPEG")}
    assert originals[np.asarray(one[0]).tobytes()].parent.name == f"class {one[1]}"


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("make", [training, evaluating])
@pytest.mark.parametrize("length", [6, 8, 11, 12])
def test_what_all_processes_read_together_shows_a_split_that_says_too_few(
    tmp_path: Path, make: Any, workers: int, length: int
) -> None:
    """None of them can tell alone; each holds a part, of which it gives no more than the others."""
    data = open_data(web_dataset(tmp_path, LABELS, shards=2))
    said = replace(data.train, length=length)
    loaders = [make(said, workers=workers, rank=rank, world_size=2, max_corrupt_fraction=0.5) for rank in range(2)]
    for loader in loaders:
        for _ in range(2):
            list(loader)
    read = sum(loader.stream_counts.samples for loader in loaders)
    assert (read > length) == (len(LABELS) > length)
