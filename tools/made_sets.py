"""A set in memory until all of it is known to be right, then a new folder with it: whole, or not at all."""

import hashlib
import io
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from contagg.data.decode import open_image
from contagg.errors import UserError
from contagg.files import obstacle, whole_folder, write_atomically
from tools.clones import WHICH


@dataclass(frozen=True)
class Made:
    """A set.

    Attributes:
        files: By their paths below its folder.
        counts: Of what it has how many, such as `train images`.
    """

    files: dict[str, bytes]
    counts: dict[str, int]

    def other_counts(self, known: Mapping[str, int]) -> str:
        """How many there are of what `known` has another number of; empty where all are as known."""
        found = ((what, self.counts.get(what, 0), due) for what, due in known.items())
        return ", ".join(f"{number:,} {what}, not {due:,}" for what, number, due in found if number != due)


def tables(root: Path, splits: Mapping[str, list[str]], side: int) -> Made:
    """A parquet file a split of images, named by their paths below `root`: reduced, their folders as their classes."""
    for one, other in itertools.combinations(splits, 2):
        if both := sorted({*splits[one]} & {*splits[other]}):
            raise UserError(f"{root}: {both[0]} is in {one} and {other} both: take it out of one of their lists")
    classes = _classes(root, splits)
    columns = [("image", pa.binary()), *((key, pa.int16()) for key in ("label", "width", "height"))]
    schema = pa.schema([*columns, ("file", pa.string())], {"classes": "\n".join(classes)})
    files = {}
    for split, names in splits.items():
        rows = []
        for name in tqdm(names, split):
            content, (width, height) = _reduced(root / name, side)
            label = classes.index(_class_of(name))
            rows.append({"image": content, "label": label, "width": width, "height": height, "file": name})
        written = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema), written)
        files[f"{split}.parquet"] = written.getvalue()
    return Made(files, {f"{split} images": len(names) for split, names in splits.items()} | {"classes": len(classes)})


def _classes(root: Path, splits: Mapping[str, list[str]]) -> list[str]:
    """As an index in a book has them. UserError where not all splits have them all: a label is the same in each."""
    found = {split: {_class_of(name) for name in names} for split, names in splits.items()}
    every = set().union(*found.values())
    for split, classes in found.items():
        if not classes:
            raise UserError(f"{root} has no images for {split}: {WHICH}")
        if missing := sorted(every - classes):
            others = " and ".join(other for other in found if missing[0] in found[other])
            raise UserError(f"{root}: {split} has no image of {missing[0]!r}, {others} has: all need the same classes")
    return sorted(every, key=lambda name: (name.lower(), name))


def _class_of(name: str) -> str:
    return name.split("/")[-2]


def _reduced(path: Path, side: int) -> tuple[bytes, tuple[int, int]]:
    """A photograph whose shorter side is at most `side` pixels, as JPEG; its width and height."""
    image = open_image(path).convert("RGB")  # no longer than a hundred times its shorter side: fits 16 bits
    factor = side / min(image.size)
    if factor < 1:
        size = (round(image.width * factor), round(image.height * factor))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return encoded(image, "JPEG", quality=85, progressive=True), image.size


class CocoSet:
    """Images and objects of two splits, numbered from 1 as they come; a fifth of the images or so is for validation.

    Args:
        root: Where they come from, as errors name it.
    """

    def __init__(self, root: Path, classes: Sequence[str]) -> None:
        self.root = root
        self.categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
        self.parts: dict[str, dict[str, list[dict[str, Any]]]] = {
            split: {"images": [], "annotations": []} for split in ("train", "val")
        }
        self.images: dict[str, bytes] = {}
        self.sources: dict[str, str] = {}
        self.image_ids, self.object_ids = itertools.count(1), itertools.count(1)

    def add(self, source: str, file_name: str, content: bytes, size: tuple[int, int], objects: Iterable[Any]) -> None:
        """An image of `size` (W, H) into the split that sha256 of `source` says, and its objects.

        UserError where another image is called so, in whichever split.
        """
        if (other := self.sources.setdefault(file_name, source)) != source:
            raise UserError(f"{self.root}: {other} and {source} would both be called {file_name}: {WHICH}")
        split = "val" if int(hashlib.sha256(source.encode()).hexdigest(), 16) % 5 == 0 else "train"
        number = next(self.image_ids)
        self.images[f"{split}/{file_name}"] = content
        image = {"id": number, "file_name": file_name, "width": size[0], "height": size[1]}
        self.parts[split]["images"].append(image)
        for found in objects:
            one = {"id": next(self.object_ids), "image_id": number, "iscrowd": 0, **found}
            self.parts[split]["annotations"].append(one)

    def made(self) -> Made:
        """Images and annotations. UserError where a split has no image."""
        files, counts = dict(self.images), dict[str, int]()
        for split, part in self.parts.items():
            if not part["images"]:
                raise UserError(f"{self.root} has no image of the set for {split}: {WHICH}")
            files[f"annotations/{split}.json"] = json.dumps({"categories": self.categories, **part}).encode()
            counts |= {f"{split} images": len(part["images"]), f"{split} objects": len(part["annotations"])}
        return Made(files, counts)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    """An image as the content of a file."""
    content = io.BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


def require_new(folder: Path) -> None:
    """UserError where something is there, or where nothing can be."""
    if os.path.lexists(folder):
        raise UserError(f"{folder} is there already: give a folder that is not, or remove it")
    if reason := obstacle(folder, folder=True):
        raise UserError(reason)


def write_new(folder: Path, files: Mapping[str, bytes]) -> None:
    """All of them, or none. UserError where that is not possible."""
    require_new(folder)
    with whole_folder(folder) as beside:
        for name, content in files.items():
            path = beside / name
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, content)
