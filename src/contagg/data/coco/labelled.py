"""Images with what people marked on them, as other formats have it, and a COCO folder made of them. Needs no torch."""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from contagg.data.coco.annotations import read_annotations
from contagg.data.coco.masks import area, check
from contagg.data.decode import read_regular
from contagg.errors import UserError, plural
from contagg.files import whole_folder, write_atomically

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""What folders and files of splits are called, and how they are called here."""

LARGEST_FILE = 16 << 20
"""Bytes of a text; a thousand polygons of a hundred corners have two million."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels from 0; right and bottom are where the object ends."""


@dataclass(frozen=True)
class Object:
    """What is marked on an image.

    Attributes:
        name: Of its class.
        box: Within the image.
        outline: As COCO writes it, polygons in pixels or run lengths, where there is one.
        crowd: Neither learnt nor counted as missed.
    """

    name: str
    box: Box
    outline: Any = None
    crowd: bool = False


@dataclass(frozen=True)
class Labelled:
    """An image.

    Attributes:
        file: Where it lies.
        name: Below its split's folder.
        size: Height and width in pixels, upright.
    """

    file: Path
    name: str
    size: tuple[int, int]
    objects: list[Object]


@dataclass
class Reading:
    """What a folder of another format holds.

    Attributes:
        classes: In the order of their ids, which begin at 1.
        splits: train, val or test.
        notes: What a person should know of how it was read, a line each.
    """

    classes: Sequence[str]
    splits: dict[str, list[Labelled]]
    notes: list[str] = field(default_factory=list)


def clipped(box: Box, size: tuple[int, int], clip_boxes: float) -> Box:
    """A box within its image of `size` (height, width).

    Raises:
        UserError: it reaches more than `clip_boxes` pixels beyond it, or covers nothing of it.

    >>> clipped((-0.5, 2, 7, 9), (9, 8), clip_boxes=1)
    (0, 2, 7, 9)
    """
    left, top, right, bottom = box
    height, width = size
    shown = f"the box from {left:g}, {top:g} to {right:g}, {bottom:g}"
    if right <= left or bottom <= top:
        raise UserError(f": {shown} has no width or height")
    beyond = max(-left, -top, right - width, bottom - height)
    if beyond > clip_boxes:
        raise UserError(f": {shown} leaves the {width} x {height} pixels by {beyond:.4g}; --clip-boxes allows some")
    box = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    if box[2] <= box[0] or box[3] <= box[1]:
        raise UserError(f": {shown} covers nothing of the {width} x {height} pixels")
    return box


def hold_out(images: Sequence[Labelled], one_in: int) -> dict[str, list[Labelled]]:
    """Training and validation: of `one_in` images one, by a hash of its name (without ending), whatever others come.

    Of a few images the hash may take none, or all: then the least of the hashes is held out, or the greatest kept.

    UserError where one of both has none: there is but one name.
    """
    hashes = [int(sha256(Path(image.name).stem.encode("utf-8", "surrogateescape")).hexdigest(), 16) for image in images]
    chosen = [number % one_in == 0 for number in hashes]
    if not any(chosen):
        chosen = [number == min(hashes) for number in hashes]
    elif all(chosen):
        chosen = [number != max(hashes) for number in hashes]
    if all(chosen) or not any(chosen):
        raise UserError(
            f"of {plural(len(images), 'image')} --hold-out can take none for validation: two with different names are "
            "needed, or folders for training and validation"
        )
    parts = {"train": False, "val": True}
    return {name: [i for i, held in zip(images, chosen, strict=True) if held == part] for name, part in parts.items()}


def with_validation(splits: dict[str, list[Labelled]], one_in: int) -> dict[str, list[Labelled]]:
    """Splits that `fit` can take: of a single one, or of training where none is for validation, some are held out.

    UserError where there is nothing to train on, or nothing to hold out.
    """
    if len(splits) == 1:
        return hold_out(next(iter(splits.values())), one_in)
    if "train" not in splits:
        raise UserError(f"there are {' and '.join(sorted(splits))}, but nothing for training")
    return splits if "val" in splits else splits | hold_out(splits["train"], one_in)


def split_names(names: Iterable[str], where: str) -> dict[str, str]:
    """Of `names` those of splits, by what they are called here. UserError for two of one split: one would be lost.

    >>> split_names(["train", "valid", "names"], "data.yaml")
    {'train': 'train', 'val': 'valid'}
    """
    found: dict[str, str] = {}
    for name in names:
        if name in SPLITS and found.setdefault(SPLITS[name], name) != name:
            raise UserError(f"{where} has both {found[SPLITS[name]]} and {name}: which is for validation?")
    return found


def read_lines(path: Path) -> list[str]:
    """Of a text; what Windows writes before it (BOM) is no part of it. UserError where it cannot be read."""
    try:
        return read_regular(path, LARGEST_FILE).decode("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f": {path.name} cannot be read: {error}") from error


def as_coco(images: Sequence[Labelled], classes: Sequence[str]) -> dict[str, Any]:
    """A COCO JSON of instances."""
    numbers = {name: number for number, name in enumerate(classes, 1)}
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(images, 1):
        for found in image.objects:
            left, top, right, bottom = (round(value, 3) for value in found.box)
            box = [left, top, round(right - left, 3), round(bottom - top, 3)]
            mask: dict[str, Any] = {"area": round(box[2] * box[3], 3)}
            if found.outline:
                mask = {"area": area(found.outline, image.size), "segmentation": found.outline}
            ids = {"id": len(annotations) + 1, "image_id": number, "category_id": numbers[found.name]}
            annotations.append({**ids, "bbox": box, "iscrowd": int(found.crowd), **mask})
    return {
        "images": [
            {"id": number, "file_name": image.name, "height": image.size[0], "width": image.size[1]}
            for number, image in enumerate(images, 1)
        ],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
    }


def as_json(content: Any, indent: int | None = None) -> bytes:
    """Readable letters in UTF-8; what cannot be so, as the names of files from another time, as JSON's escapes."""
    return json.dumps(content, indent=indent, ensure_ascii=False).encode("utf-8", "backslashreplace")


def check_polygon(polygon: list[float], size: tuple[int, int]) -> None:
    """UserError for a polygon that encloses no pixel of an image of `size` (height, width)."""
    try:
        check([polygon], size)
    except UserError as error:
        raise UserError(f": {error}") from error
    if not area([polygon], size):
        raise UserError(": the polygon encloses no pixel")


def require_new(output: Path) -> None:
    """UserError for a folder that holds something."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output {output} is there and not empty: give a new folder")


def write(splits: Mapping[str, Sequence[Labelled]], classes: Sequence[str], output: Path) -> bool:
    """OUTPUT/annotations/NAME.json and OUTPUT/NAME/ with the images of each split, all of it or nothing.

    Returns:
        Whether all images are hard links, which take no space: they are copied where the disk is another.

    Raises:
        UserError: OUTPUT is there and not empty, or cannot be written.
    """
    require_new(output)
    for name, images in splits.items():
        _check_places(name, images)
    with whole_folder(output) as partial:
        (partial / "annotations").mkdir()
        linked = all([_place(image, partial / name) for name, images in splits.items() for image in images])
        for name, images in splits.items():
            (partial / name).mkdir(exist_ok=True)
            path = partial / "annotations" / f"{name}.json"
            write_atomically(path, as_json(as_coco(images, classes)))
            read_annotations(path, partial / name, clip_boxes=0.01)  # what is written is what `fit` takes
    return linked


def _check_places(split: str, images: Sequence[Labelled]) -> None:
    first: dict[str, Labelled] = {}
    for image in images:
        if (other := first.setdefault(image.name, image)) is not image:
            twice = f"{other.file} and {image.file} would both be {split}/{image.name}"
            raise UserError(f"{image.file} is marked twice" if other.file == image.file else twice)


def _place(image: Labelled, folder: Path) -> bool:
    """Put an image into a folder; whether as a link. What is there stays: written into, it would change its source."""
    place = folder / image.name
    place.parent.mkdir(parents=True, exist_ok=True)
    source = image.file.resolve()
    try:
        place.hardlink_to(source)
    except FileExistsError:
        raise
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, place)
        return False
    return True
