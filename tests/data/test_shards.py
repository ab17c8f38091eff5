"""What cannot be read in WebDataset's shards is named, counted over the workers, and stops training beyond a limit."""

import io
import logging
import tarfile
from pathlib import Path

import pytest
import torch
from photographs import piece
from PIL import Image
from test_loaders import epochs, evaluating, training

from contagg.data.config import DataConfig
from contagg.data.datasets import ImageData
from contagg.data.sources import open_data
from contagg.errors import UserError

COUNT = 12


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def shards_of(root: Path, split: str, **values: object) -> DataConfig:
    return DataConfig(  # type: ignore[arg-type]
        name="wds/", root=str(root), train_split=split, validation_split=split, **{"classes": 2, **values}
    )


BROKEN = {"empty": b"", "text": b"hello", "cut": png(piece(0))[:900], "long": png(Image.new("RGB", (2, 300)))}


def stream(root: Path, broken: dict[int, bytes], **values: object) -> ImageData:
    """Two shards of six images each."""
    pytest.importorskip("webdataset")
    root.mkdir(exist_ok=True)
    for shard in range(2):
        with tarfile.open(root / f"shard-{shard}.tar", "w") as tar:
            for number in range(shard, COUNT, 2):
                content = broken.get(number, png(piece(number)))
                for kind, held in (("png", content), ("cls", b"1")):
                    member = tarfile.TarInfo(f"{number:03d}.{kind}")
                    member.size = len(held)
                    tar.addfile(member, io.BytesIO(held))
    split = f"shard-{{0..1}}.tar|{COUNT}"
    return open_data(shards_of(root, split, **values))


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


def test_what_is_no_fault_of_an_image_is_raised(tmp_path: Path) -> None:
    data = stream(tmp_path, {}, label_key="kind").validation
    with pytest.raises(UserError, match=r"^data: shard-0\.tar/000: no 'kind' \(data\.label_key\) in a json file"):
        list(evaluating(data, max_corrupt_fraction=0.5))
