"""Parts of the data are nested, balanced and the same everywhere (Table 3)."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from opening import folder
from PIL import Image
from pytest import MonkeyPatch

from contagg.data.datasets import ImageData, MemoryImages, balanced_part
from contagg.data.decode import read_image
from contagg.data.sources import open_data, open_unlabelled

MakeFolder = Callable[..., Path]

# Another value here means that every published fraction has changed.
# fmt: off
PINNED_PART = [
    2, 6, 17, 18, 29, 47, 55, 66, 72, 90, 99, 101, 115, 133, 139, 143,
    144, 168, 176, 190, 193, 195, 222, 228, 240, 249, 258, 264, 272, 273, 292,
]
# fmt: on


def test_parts_are_nested_balanced_and_pinned() -> None:
    labels = np.repeat(np.arange(7), [3, 11, 40, 41, 97, 100, 1])
    images = MemoryImages(np.zeros((len(labels), 2, 2), dtype=np.uint8), labels)
    counts = np.bincount(labels)
    smaller: set[int] = set()
    for fraction in (0.1, 0.5, 0.8, 1.0):
        part = balanced_part(images, fraction)
        assert smaller <= set(part.tolist()) and len(set(part.tolist())) == len(part)
        taken = np.bincount(labels[part], minlength=7)
        assert (np.abs(taken - fraction * counts) <= 1).all() and taken.min() >= 1
        smaller = set(part.tolist())
    assert len(smaller) == len(labels)
    assert balanced_part(images, 0.1).tolist() == PINNED_PART
    assert balanced_part(images, 0.1, "another ").tolist() != PINNED_PART


def test_parts_go_by_path_not_by_place_or_order(image_folder: MakeFolder, tmp_path: Path) -> None:
    root = image_folder(train=11)

    def names(data: ImageData) -> set[str]:
        return {data.train.name(index) for index in range(len(data.train))}

    here = names(open_data(folder(root, fraction=0.4)))
    moved = tmp_path / "elsewhere"
    shutil.copytree(root, moved)
    assert names(open_data(folder(moved, fraction=0.4))) == here and len(here) == 8
    (moved / "train/china/0 new.png").write_bytes((moved / "train/china/china 0.png").read_bytes())
    assert len(names(open_data(folder(moved, fraction=0.4))) & here) >= 7


def test_a_part_keeps_image_and_label_together() -> None:
    whole = MemoryImages(np.arange(20 * 4, dtype=np.uint8).reshape(20, 2, 2), np.arange(20) % 3)
    part = whole.subset(np.array([3, 19, 4]))
    assert [part[index][1] for index in range(3)] == [0, 1, 1]
    assert part.name(1) == "image 19" and part.identity == [b"3", b"19", b"4"]
    assert torch.equal(part.gather(np.array([1])), whole.gather(np.array([19])))


def test_cached_images_are_decoded_once_within_the_memory(image_folder: MakeFolder, monkeypatch: MonkeyPatch) -> None:
    root, decoded = image_folder(train=5), list[str]()

    def read(source: Path, name: str, **limits: int | None) -> Image.Image:
        decoded.append(name)
        return read_image(source, name, **limits)

    monkeypatch.setattr("contagg.data.datasets.read_image", read)
    plain = open_data(folder(root)).train
    expected = [np.asarray(plain[index][0]) for index in range(10)]
    cached = open_data(folder(root, cache_gb=1.0)).train.subset(np.arange(9, -1, -1))
    decoded.clear()
    for _ in range(3):
        for index in range(10):
            image = cached[index][0]
            np.testing.assert_array_equal(np.asarray(image), expected[9 - index])
            image.paste(0, (0, 0, *image.size))  # what a transform does to it stays with that transform
    assert len(decoded) == 10

    unlabelled = open_unlabelled(folder(root, cache_gb=1.0)).train
    decoded.clear()
    for index in (3, 3, 3):
        unlabelled[index]
    assert len(decoded) == 1

    room = sum(image.size for image in expected[:4]) / 2**30
    small = open_data(folder(root, cache_gb=room)).train
    decoded.clear()
    for _ in range(3):
        for index in range(10):
            small[index]
    assert len(decoded) == 4 + 3 * 6
