"""`python -m tools.cues CALTECH FOLDER`: images whose class lies in a relation between distant photographs.

Four photographs of different classes lie in the corners of a plain canvas; a coloured square between them says which of
the four decides the class. So nothing near any photograph tells whether it counts: what the square says must come to it
from afar. How far is a key, so that it is known by construction which stages' convolutions bridge it. Image i of a seed
is the same on every machine, and photographs of the splits do not meet. No torch.
"""

import argparse
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from contagg.errors import UserError
from contagg.files import write_output

Split = Literal["train", "val"]
FILES: dict[Split, str] = {"train": "train.parquet", "val": "test.parquet"}
COLOURS = ((214, 39, 40), (44, 160, 44), (31, 119, 180), (240, 200, 20))
"""Of the square, by the corner that counts: top left, top right, bottom left, bottom right."""
GREY = 128


@dataclass(frozen=True)
class Composition:
    """What to compose.

    Attributes:
        classes: The most frequent ones of the source.
        side: Of an image, in pixels.
        photograph: Side of each of the four photographs.
        cue: Side of the square.
        train, val: Images a split.
    """

    classes: int = 8
    side: int = 96
    photograph: int = 32
    cue: int = 8
    train: int = 8000
    val: int = 2000
    seed: int = 0

    def check(self) -> None:
        """UserError for parts that do not fit side by side."""
        if 2 * self.photograph + self.cue > self.side:
            raise UserError(
                f"two photographs of {self.photograph} pixels and a square of {self.cue} do not fit into {self.side}"
            )
        if self.classes < len(COLOURS):
            raise UserError(f"--classes must be at least {len(COLOURS)}, one a corner, not {self.classes}")

    @property
    def distance(self) -> int:
        """Pixels between the square and the nearest photograph, along the farther axis."""
        return (self.side - 2 * self.photograph - self.cue) // 2


def read_photographs(folder: Path, split: Split, composition: Composition) -> tuple[list[list[Image.Image]], list[str]]:
    """The photographs of each chosen class, cut to a square and reduced; and the classes' names.

    The classes are those that the training split has most of, in both splits.
    """
    path = folder / FILES[split]
    if not path.is_file():
        raise UserError(f"there is no {path}: a folder with {' and '.join(FILES.values())} was expected")
    counts = np.bincount(pq.read_table(folder / FILES["train"], columns=["label"])["label"].to_numpy())
    chosen = np.argsort(-counts, kind="stable")[: composition.classes]
    if len(chosen) < composition.classes:
        raise UserError(f"--classes {composition.classes}: {folder} has {len(chosen)}")
    table = pq.read_table(path)
    names = table.schema.metadata[b"classes"].decode().splitlines()
    photographs: list[list[Image.Image]] = [[] for _ in chosen]
    place = {int(label): number for number, label in enumerate(chosen)}
    for label, content in zip(table["label"].to_pylist(), table["image"], strict=True):
        if label in place:
            photographs[place[label]].append(_square(content.as_py(), composition.photograph))
    return photographs, [names[label] for label in chosen]


def _square(content: bytes, side: int) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=["JPEG"]).convert("RGB")
    width, height = image.size
    least = min(width, height)
    left, top = (width - least) // 2, (height - least) // 2
    return image.resize((side, side), Image.Resampling.BICUBIC, (left, top, left + least, top + least), reducing_gap=3)


def draw(
    photographs: list[list[Image.Image]], composition: Composition, split: Split, number: int
) -> tuple[Image.Image, int]:
    """The image of a number and its class: a function of the arguments alone."""
    random = np.random.default_rng((composition.seed, split == "val", number))
    classes = random.choice(composition.classes, len(COLOURS), replace=False)
    counts = int(random.integers(len(COLOURS)))
    canvas = Image.new("RGB", (composition.side, composition.side), (GREY,) * 3)
    far = composition.side - composition.photograph
    for corner, label in enumerate(classes):
        one = photographs[label][random.integers(len(photographs[label]))]
        canvas.paste(one, (far * (corner % 2), far * (corner // 2)))
    middle = (composition.side - composition.cue) // 2
    canvas.paste(Image.new("RGB", (composition.cue,) * 2, COLOURS[counts]), (middle, middle))
    return canvas, int(classes[counts])


def write_split(source: Path, folder: Path, split: Split, composition: Composition) -> None:
    """Write one split as parquet, as `contagg fit` reads it with data.name parquet."""
    photographs, names = read_photographs(source, split, composition)
    images, labels = [], []
    for number in range(getattr(composition, split)):
        image, label = draw(photographs, composition, split, number)
        content = io.BytesIO()
        image.save(content, "JPEG", quality=90)
        images.append(content.getvalue())
        labels.append(label)
    schema = pa.schema([("image", pa.binary()), ("label", pa.int16())], {"classes": "\n".join(names)})
    content = io.BytesIO()
    pq.write_table(pa.table([images, labels], schema=schema), content)
    write_output(folder / f"{split}.parquet", content.getvalue())


def main() -> None:
    """Write both splits, and what they are made of."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="a folder with train.parquet and test.parquet of photographs")
    parser.add_argument("folder", type=Path, help="where train.parquet and val.parquet go")
    for name, default in asdict(Composition()).items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"(default {default})")
    options = vars(parser.parse_args())
    source, folder = options.pop("source"), options.pop("folder")
    composition = Composition(**options)
    composition.check()
    for split in FILES:
        write_split(source, folder, split, composition)
    write_output(folder / "composition.json", json.dumps(asdict(composition), indent=2).encode())
    print(
        f"{folder}: {composition.train} and {composition.val} images; the square lies {composition.distance} pixels off"
    )


if __name__ == "__main__":
    main()
