"""Shards of more or fewer images than their split says, or of broken ones: named, counted, too many an error."""

import io
import logging
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from opening import refused
from photographs import piece
from test_loaders import epochs, evaluating, training
from test_shards import BROKEN, COUNT, png, shards_of, stream

from contagg.data.sources import open_data
from contagg.errors import UserError


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_image_is_named_and_left_out(
    tmp_path: Path, kind: str, workers: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # To where workers write, too.
    monkeypatch.setattr(logging.getLogger("contagg"), "handlers", [logging.StreamHandler()])
    loader = evaluating(stream(tmp_path, {3: BROKEN[kind]}).validation, workers, max_corrupt_fraction=0.1)
    for _ in range(2):  # counted anew each time: 2 of 12 would be too many
        assert len(torch.cat([labels for _, labels in loader])) == COUNT - 1
    assert capfd.readouterr().err.count("left out an image that cannot be read: shard-1.tar/003: ") == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_stop_with_one_line(tmp_path: Path, workers: int) -> None:
    data = stream(tmp_path, {2: b"", 3: b""})
    for loader in (
        evaluating(data.validation, workers, max_corrupt_fraction=0.1),
        training(data.train, workers=workers, max_corrupt_fraction=0.1),
    ):
        message = r"^\d+ of 1[26] images of the stream cannot be read, more than data\.max_corrupt_fraction 0\.1 allows"
        with pytest.raises(UserError, match=message) as caught:
            list(loader)
        assert "\n" not in str(caught.value)


def test_nothing_readable_is_an_error_and_no_empty_epoch(tmp_path: Path) -> None:
    loader = training(stream(tmp_path, dict.fromkeys(range(COUNT), b"")).train, max_corrupt_fraction=0.5)
    with pytest.raises(UserError, match="12 of 12 images of the stream cannot be read"):
        list(loader)


def test_training_makes_up_for_what_is_left_out(tmp_path: Path) -> None:
    loader = training(stream(tmp_path, {3: b""}).train, max_corrupt_fraction=0.2)
    assert [len(epochs(loader, epoch)) for epoch in range(3)] == [len(loader)] * 3


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("make", [training, evaluating])
def test_more_images_than_a_split_says_are_told(
    tmp_path: Path, make: Callable[..., Any], workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    """20 of 30 were learnt from, without a word."""
    stream(tmp_path, {})
    for length, times in ((8, 1), (COUNT, 0)):
        caplog.clear()
        loader = make(open_data(shards_of(tmp_path, f"shard-{{0..1}}.tar|{length}")).train, workers=workers)
        for _ in range(2):
            list(loader)
        assert caplog.text.count(f"the stream holds more than the {length} images that its split says") == times


def test_a_missing_shard_is_an_error(tmp_path: Path) -> None:
    stream(tmp_path, {})
    refused(shards_of(tmp_path, f"{'a' * 300}.tar|18"), "1 of 1 shard not in")
    refused(
        shards_of(tmp_path, "shard-{0..2}.tar|18"), r"data\.train_split: 1 of 3 shards not in .*, such as shard-2\."
    )
    refused(shards_of(tmp_path, "shart-{0..1}.tar|12"), r"2 of 2 shards not in .*, such as shart-0\.tar")
    (tmp_path / "shard-2.tar").mkdir()
    refused(shards_of(tmp_path, "shard-{0..2}.tar|18"), "1 of 3 shards not in")


def damage(path: Path, kind: str) -> None:
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "no end": content.rstrip(b"\0")[:-100]}[kind])


@pytest.mark.parametrize("kind", ["empty", "cut", "no end"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_shard_is_named_and_its_images_count_as_unreadable(
    tmp_path: Path, kind: str, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    stream(tmp_path, {})
    damage(tmp_path / "shard-1.tar", kind)
    split = f"shard-{{0..1}}.tar|{COUNT}"
    refused(
        shards_of(tmp_path, split), r"1 of 2 shards in .* are empty or cut off, such as shard-1\.tar, more than data"
    )
    with caplog.at_level(logging.WARNING):
        data = open_data(shards_of(tmp_path, split, max_corrupt_fraction=0.5))
    assert "shard-1.tar is empty or cut off" in caplog.text
    for loader in (
        evaluating(data.validation, workers, max_corrupt_fraction=0.05),
        training(data.train, workers=workers),
    ):
        with pytest.raises(
            UserError, match=r"\d+ of 12 images of the stream cannot be read|has no image that can be read"
        ):
            list(loader)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("training_too", [False, True])
def test_samples_that_are_not_there_count(tmp_path: Path, workers: int, training_too: bool) -> None:
    """200 images out of 150."""
    stream(tmp_path, {})
    data = open_data(shards_of(tmp_path, "shard-{0..1}.tar|16"))
    make = training if training_too else evaluating
    message = r"4 of 16 images of the stream cannot be read \(4 of them are not there\), more than data\.max_corrupt"
    with pytest.raises(UserError, match=message):
        list(make(data.train, workers=workers, max_corrupt_fraction=0.2))
    assert len(list(make(data.train, workers=workers, max_corrupt_fraction=0.25))) >= 3


def test_a_key_that_comes_twice_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stream(tmp_path, {})
    with tarfile.open(tmp_path / "shard-0.tar", "w") as tar:
        for number in range(6):
            for kind, held in (("png", png(piece(number))), ("cls", b"1")):
                member = tarfile.TarInfo(f"{number // 2}.{kind}")
                member.size = len(held)
                tar.addfile(member, io.BytesIO(held))
    data = open_data(shards_of(tmp_path, f"shard-{{0..1}}.tar|{COUNT}"))
    with caplog.at_level(logging.WARNING), pytest.raises(UserError, match=r"of 12 images of the stream cannot be read"):
        list(evaluating(data.validation, max_corrupt_fraction=0.1))
    assert "0.png: duplicate file name in tar file" in caplog.text
