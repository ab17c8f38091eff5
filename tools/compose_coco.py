"""`python -m tools.compose_coco FOLDER`: a data set in COCO's form, made of real pictures, where there is no COCO.

What COCO has is there: objects that hide each other or are cut off, crowds, images without objects or colour, ids with
gaps, polygons and run lengths. Image i of a seed is the same on every machine, at any number of processes. No torch.
"""

import argparse
import io
import json
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from contourpy import contour_generator
from PIL import Image

from contagg.data.coco.masks import to_mask, to_rle
from contagg.data.decode import open_image
from contagg.errors import UserError
from contagg.files import write_atomically
from tools.scenes import LARGEST, Instance, Scene, compose
from tools.sprites import SourceName, Split, load_sprites

CATEGORY_IDS = (1, 3, 4, 8, 9, 13, 17, 44, 62, 90)
FOLDERS: dict[Split, str] = {"train": "train2017", "val": "val2017"}
_FIRST_ID = {"train": 9, "val": 500_029}
_CHUNK = 64


@dataclass(frozen=True)
class Composition:
    """What to compose: `size` pixels at the longer side, the first `classes` classes of a source of pictures.

    See `tools.scenes.compose` for `objects` and `smallest`.
    """

    source: SourceName
    size: int
    classes: int
    seed: int
    objects: int = 6
    smallest: float = 0.2


def image_id(split: Split, index: int) -> int:
    """Ids have gaps, and those of the splits do not meet."""
    return _FIRST_ID[split] + 7 * index + index % 3


def draw(composition: Composition, split: Split, index: int) -> Scene:
    """The scene of a number: a function of its arguments alone."""
    sprites = load_sprites(composition.source, split, composition.classes)
    random = np.random.default_rng((composition.seed, zlib.crc32(split.encode()), index))
    return compose(sprites, split, composition.size, composition.objects, composition.smallest, random)


def annotate(instance: Instance, prefer_polygons: bool) -> dict[str, Any]:
    """An annotation but for its ids and category."""
    rows, columns = (np.flatnonzero(instance.visible.any(axis)) for axis in (1, 0))
    box = [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]
    if instance.is_crowd:
        segmentation: Any = to_plain_rle(instance.visible)
    else:
        segmentation = (to_polygons(instance.visible) if prefer_polygons else None) or to_rle(instance.visible)
    return {
        "bbox": [float(value) for value in box],
        "area": float(instance.visible.sum()),
        "iscrowd": int(instance.is_crowd),
        "segmentation": segmentation,
    }


def _make(composition: Composition, folder: Path, split: Split, index: int) -> tuple[dict[str, Any], list[dict]]:
    """Write an image; its entry in the JSON and its annotations."""
    scene = draw(composition, split, index)
    number = image_id(split, index)
    name = f"{number:012d}.jpg"
    content = io.BytesIO()
    Image.fromarray(scene.image).save(content, "JPEG", quality=92)
    (folder / FOLDERS[split] / name).write_bytes(content.getvalue())
    height, width = scene.image.shape[:2]
    annotations = [
        annotate(instance, prefer_polygons=(index + place) % 4 != 0) | {"image_id": number, "category": instance.label}
        for place, instance in enumerate(scene.instances)
    ]
    return {"id": number, "file_name": name, "height": height, "width": width}, annotations


def write_split(composition: Composition, folder: Path, split: Split, count: int, workers: int) -> dict[str, Any]:
    """Write a split's images and its JSON; returns what the JSON holds."""
    names = load_sprites(composition.source, split, composition.classes).names
    (folder / FOLDERS[split]).mkdir(parents=True, exist_ok=True)
    make = partial(_make, composition, folder, split)
    if workers:
        with ProcessPoolExecutor(workers) as pool:
            made = list(pool.map(make, range(count), chunksize=_CHUNK))
    else:
        made = [make(index) for index in range(count)]
    annotations = [annotation for _, of_image in made for annotation in of_image]
    for number, annotation in enumerate(annotations):
        annotation["id"] = 3 * number + 11
        annotation["category_id"] = CATEGORY_IDS[annotation.pop("category")]
    content = {
        "info": {"description": "composed by python -m tools.compose_coco", "composition": asdict(composition)},
        "images": [image for image, _ in made],
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name, "supercategory": composition.source}
            for number, name in zip(CATEGORY_IDS, names, strict=False)
        ],
    }
    (folder / "annotations").mkdir(exist_ok=True)
    write_atomically(_annotations(folder, split), json.dumps(content).encode())
    return content


def _annotations(folder: Path, split: Split) -> Path:
    return folder / "annotations" / f"instances_{FOLDERS[split]}.json"


def write_crops(content: dict[str, Any], folder: Path, split: Split) -> int:
    """Each object cut out with a margin, as `crops/train/CLASS/ID.jpg`: images to learn a backbone from first."""
    files = {image["id"]: image["file_name"] for image in content["images"]}
    names = {category["id"]: category["name"] for category in content["categories"]}
    for name in names.values():
        (folder / "crops" / split / name).mkdir(parents=True, exist_ok=True)
    objects = [annotation for annotation in content["annotations"] if not annotation["iscrowd"]]
    for annotation in objects:
        x, y, width, height = annotation["bbox"]
        centre, half = (x + width / 2, y + height / 2), 0.6 * max(width, height)
        around = tuple(round(value) for value in (*(c - half for c in centre), *(c + half for c in centre)))
        crop = open_image(folder / FOLDERS[split] / files[annotation["image_id"]]).convert("RGB").crop(around)
        name = names[annotation["category_id"]]
        crop.resize((64, 64), Image.Resampling.BICUBIC).save(
            folder / "crops" / split / name / f"{annotation['id']:08d}.jpg", quality=92
        )
    return len(objects)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the command."""
    parser.add_argument("folder", help="a new folder; it gets train2017, val2017 and annotations, as COCO has")
    parser.add_argument("--images", type=int, default=3000, help="training images (default 3000)")
    parser.add_argument("--validation", type=int, default=300, help="validation images (default 300)")
    parser.add_argument("--size", type=int, default=128, help="pixels at the longer side (default 128)")
    parser.add_argument("--classes", type=int, default=10, help="1 to 10 (default 10)")
    parser.add_argument("--objects", type=int, default=6, help="of an image at most (default 6)")
    parser.add_argument(
        "--smallest", type=float, default=0.2, help=f"longer side by the image's shorter, below {LARGEST} (default 0.2)"
    )
    parser.add_argument("--source", choices=("garments", "digits"), default="garments", help="default garments")
    parser.add_argument("--crops", action="store_true", help="also cut each object out, for a classification run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")


def run(options: argparse.Namespace) -> None:
    """Compose what the options say. UserError for numbers out of range, or a folder that holds a data set already."""
    for name, least in (("images", 1), ("validation", 1), ("size", 48), ("objects", 1), ("seed", 0), ("workers", 0)):
        if getattr(options, name) < least:
            raise UserError(f"--{name} must be at least {least}, not {getattr(options, name)}")
    if not 0.05 <= options.smallest < LARGEST:
        raise UserError(f"--smallest must be at least 0.05 and below {LARGEST}, not {options.smallest}")
    folder = Path(options.folder)
    composition = Composition(
        options.source, options.size, options.classes, options.seed, options.objects, options.smallest
    )
    counts: dict[Split, int] = {"train": options.images, "val": options.validation}
    for split in counts:
        load_sprites(options.source, split, options.classes)
        if _annotations(folder, split).exists():
            raise UserError(f"{folder} holds a data set already: give a new folder")
    for split, count in counts.items():
        try:
            content = write_split(composition, folder, split, count, options.workers)
            crops = f", {write_crops(content, folder, split)} crops" if options.crops else ""
        except OSError as error:
            raise UserError(f"{folder} cannot be written: {error.strerror or error}") from error
        objects = len(content["annotations"])
        print(f"{folder / FOLDERS[split]}: {count} images, {objects} annotations{crops}", flush=True)


def to_plain_rle(mask: np.ndarray) -> dict[str, Any]:
    """Run lengths as numbers, beginning with the zeros: the form of COCO's crowds."""
    flat = np.asarray(mask, dtype=bool).ravel(order="F").tolist()
    counts = [len(list(run)) for _, run in groupby(flat)]
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def to_polygons(mask: np.ndarray) -> list[list[float]] | None:
    """The outlines, or None where polygons do not give back the same mask, as with holes."""
    lines: Any = contour_generator(z=np.pad(mask, 1).astype(float)).lines(0.5)
    # Of three points or fewer a reader could take a polygon for a box.
    polygons = [(line[:-1] - 0.5).ravel().tolist() for line in lines if len(line) > 4]
    if not polygons or not np.array_equal(to_mask(polygons, mask.shape), mask):
        return None
    return polygons


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tools.compose_coco", description=(__doc__ or "").split("\n")[0])
    arguments(parser)
    run(parser.parse_args())
