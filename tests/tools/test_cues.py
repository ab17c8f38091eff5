"""Images whose class a distant square decides: what is in them, and that they are made again alike."""

import io
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from contagg.errors import UserError
from tools import cues
from tools.cues import COLOURS, Composition, draw, read_photographs, write_split

SMALL = Composition(classes=4, side=60, photograph=20, cue=6, train=30, val=10)
SHADES = (20, 80, 140, 200, 250)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Five classes of photographs that are each of one grey; of the fourth there are fewest."""
    schema = pa.schema([("image", pa.binary()), ("label", pa.int16())], {"classes": "a\nb\nc\nd\ne"})
    for name in cues.FILES.values():
        images, labels = [], []
        for label, count in enumerate((3, 4, 5, 1, 6)):
            for _ in range(count):
                content = io.BytesIO()
                Image.new("RGB", (40, 30), (SHADES[label],) * 3).save(content, "JPEG")
                images.append(content.getvalue())
                labels.append(label)
        pq.write_table(pa.table([images, labels], schema=schema), tmp_path / name)
    return tmp_path


def test_the_square_names_the_corner_whose_class_it_is(source: Path) -> None:
    photographs, names = read_photographs(source, "train", SMALL)
    assert names == ["e", "c", "b", "a"] and [len(of) for of in photographs] == [6, 5, 4, 3]
    seen = set()
    for number in range(60):
        image, label = draw(photographs, SMALL, "train", number)
        pixels = np.asarray(image).astype(int)
        corner = COLOURS.index(tuple(pixels[30, 30]))
        shade = pixels[50 if corner // 2 else 10, 50 if corner % 2 else 10].mean()
        assert abs(shade - SHADES["abcde".index(names[label])]) <= 3
        assert (pixels[30, 22:27] == cues.GREY).all(), "nothing lies between the square and the photographs"
        seen.add((corner, label))
    assert len(seen) > 10


def test_splits_are_read_as_they_were_drawn_and_made_again_alike(source: Path, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        for split in cues.FILES:
            write_split(source, tmp_path / folder, split, SMALL)
    for split, count in (("train", 30), ("val", 10)):
        one, two = ((tmp_path / folder / f"{split}.parquet").read_bytes() for folder in ("one", "two"))
        assert one == two
        table = pq.read_table(tmp_path / "one" / f"{split}.parquet")
        assert len(table) == count and set(table["label"].to_pylist()) <= set(range(4))
    assert SMALL.distance == 7


@pytest.mark.parametrize(
    ("composition", "message"),
    [
        (Composition(side=60, photograph=30), "two photographs of 30 pixels and a square of 8 do not fit into 60"),
        (Composition(classes=3), "--classes must be at least 4"),
    ],
)
def test_what_does_not_fit(composition: Composition, message: str) -> None:
    with pytest.raises(UserError, match=message):
        composition.check()


def test_a_source_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["cues", str(tmp_path), str(tmp_path / "out")])
    with pytest.raises(UserError, match=r"there is no .*train\.parquet"):
        cues.main()
