"""Folders of images, laid out as people lay them out."""

from collections.abc import Callable
from pathlib import Path

import pytest
from photographs import piece


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """Make train/ and val/ of classes with so many images each: PNG and JPEG, the odd ones in a subfolder."""

    def make(classes: tuple[str, ...] = ("china", "flower"), train: int = 6, val: int = 3) -> Path:
        root = tmp_path / "images"
        for split, count in (("train", train), ("val", val)):
            for class_number, class_name in enumerate(classes):
                for number in range(count):
                    folder = root / split / class_name / ("deep" if number % 2 else "")
                    folder.mkdir(parents=True, exist_ok=True)
                    source = "china.jpg" if class_number % 2 == 0 else "flower.jpg"
                    kind = "png" if number % 3 == 0 else "JPEG"
                    where = number + 50 * (split == "val")
                    piece(where, name=source).save(folder / f"{class_name} {number}.{kind}")
        return root

    return make
