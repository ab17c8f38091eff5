"""Clones of a few images each, of which `tools.real_sets` makes sets."""

from pathlib import Path

import pytest
from PIL import Image

from tools.real_sets import main

Errors = pytest.CaptureFixture[str]
NUCLEI = ("cell-b", "cell-c", "cell-d", "cell-e", "cell-g", "cell-i")
"""By sha256 the last but one is for validation."""


def save(path: Path, size: tuple[int, int], mode: str = "RGB", colour: int | tuple[int, ...] = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def refused(capsys: Errors, name: str, clone: Path) -> str:
    """What is said where no set is made. Of none, and of no part of one, a trace is left."""
    out = clone / "made/out"
    out.parent.mkdir()
    with pytest.raises(SystemExit):
        main([name, str(clone), str(out)])
    assert not list(out.parent.iterdir())
    return capsys.readouterr().err


BOX = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


def bccd(folder: Path, *objects: tuple[str, int, int, int, int]) -> None:
    for name in NUCLEI:
        save(folder / "BCCD/JPEGImages" / f"{name}.jpg", (640, 480))
        (folder / "BCCD/Annotations").mkdir(exist_ok=True)
        boxes = "".join(BOX.format(*one) for one in objects)
        (folder / "BCCD/Annotations" / f"{name}.xml").write_text(f"<annotation>{boxes}</annotation>")


def lists(clone: Path, **content: bytes) -> None:
    for name in ("a", "t"):
        save(clone / f"101_ObjectCategories/ant/{name}.jpg", (200, 200))
    for split, said in {"train": b"ant/a.jpg", "test": b"ant/t.jpg", **content}.items():
        (clone / f"{split}.txt").write_bytes(said)


def whole(name: str, clone: Path) -> None:
    """A small clone of any of the sets."""
    if name == "imagenette":
        for split in ("train", "val"):
            save(clone / split / "n01/a.JPEG", (200, 200))
    elif name == "caltech":
        lists(clone)
    elif name == "nuclei":
        for cell in NUCLEI:
            save(clone / "stage1_train" / cell / "images" / f"{cell}.png", (256, 256))
            save(clone / "stage1_train" / cell / "masks/a.png", (256, 256), "L", 255)
    else:
        bccd(clone, ("WBC", 1, 2, 11, 4))
