"""Parts of the data are nested, balanced and the same everywhere (Table 3)."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from opening import folder

from contagg.data.datasets import ImageData, MemoryImages, balanced_part
from contagg.data.sources import open_data

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
