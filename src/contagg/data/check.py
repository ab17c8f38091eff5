"""`contagg data check`: what a person has, before hours are spent on it. Reads every image once."""

import argparse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from contagg.data.coco.annotations import CocoAnnotations, read_annotations, shared
from contagg.data.coco.exported import is_coco
from contagg.data.coco.labelled import SPLITS, as_json
from contagg.data.config import NAMED_DATA, DataConfig
from contagg.data.decode import UnreadableSampleError, open_regular, read_image
from contagg.data.folders import is_image
from contagg.data.sources import open_splits
from contagg.errors import UserError, plural
from contagg.files import write_output
from contagg.output import counted

SHOWN = 5
"""Names of a kind that are printed; a file has all."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A split before its images are read.

    Attributes:
        names: Of its N images.
        read: By number: an image's bytes and, from them, the image. UnreadableSampleError where it is broken.
        counts: Images of each class; of COCO objects of each category.
        notes: What is known without reading.
    """

    names: Sequence[str]
    read: Callable[[int], tuple[bytes, Image.Image]]
    counts: Mapping[str, int]
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What is in a split.

    Attributes:
        images: How many there are.
        counts: See Part.
        sizes: "width x height" of the smallest, the median and the largest by area; empty where none can be read.
        modes: How many are RGB, how many L (grey).
        unreadable: Names and reasons.
        duplicates: Pairs of names of one content: a later image and the first like it.
        notes: What else is to be known.
    """

    images: int
    counts: Mapping[str, int]
    sizes: Sequence[str]
    modes: Mapping[str, int]
    unreadable: Sequence[str]
    duplicates: Sequence[tuple[str, str]]
    notes: Sequence[str]


def check(options: argparse.Namespace) -> None:
    """Print what each split holds and what they share; write all of it where asked."""
    if options.output and options.output.suffix != ".json":
        raise UserError(f"--output {options.output} must end in .json")
    parts = parts_of(options)
    first: dict[bytes, tuple[str, str]] = {}  # digest -> split, name
    found: dict[str, Findings] = {}
    shared: dict[str, list[tuple[str, str]]] = {}
    for name, part in parts.items():
        found[name], again = examine(name, part, first, options.workers)
        shared |= {f"{other} and {name}": pairs for other, pairs in again.items()}
        print(told(name, found[name]), flush=True)
    for splits, pairs in shared.items():
        print(f"in both {splits}: {plural(len(pairs), 'image')}: {_some([' = '.join(pair) for pair in pairs])}")
    for line in _differing({name: part.counts for name, part in parts.items()}):
        print(line)
    if options.output:
        content = {"splits": {name: vars(one) for name, one in found.items()}, "shared": shared}
        write_output(options.output, as_json(content, indent=2))


def parts_of(options: argparse.Namespace) -> dict[str, Part]:
    """The splits of what the arguments name. UserError where there is nothing."""
    known, root = options.data in NAMED_DATA, Path(options.data)
    if not known and not root.is_dir():
        raise UserError(f"there is no folder {options.data!r}, and it is none of {', '.join(NAMED_DATA)}")
    kind = options.data if known else options.name or ("coco" if options.annotations else guessed(root))
    if kind == "coco":
        return _coco(root, options)
    if kind == "folder" and (command := converter(root)):
        raise UserError(
            f"{root} is not in the form that fit takes: contagg data {command} {root} -o OUT makes it, then "
            "contagg data check OUT"
        )
    parts = {}
    for name, (images, class_names) in open_splits(DataConfig(name=kind, root=None if known else str(root))).items():
        per_class = np.bincount(images.labels, minlength=len(class_names)).tolist()
        empty = [class_name for class_name, count in zip(class_names, per_class, strict=True) if not count]
        parts[name] = Part(
            names=[images.name(index) for index in range(len(images))],
            read=partial(_read_labelled, images),
            counts=dict(zip(class_names, per_class, strict=True)),
            notes=[f"classes without images, which fit refuses: {len(empty)}: {_some(empty)}"] if empty else [],
        )
    return parts


def guessed(root: Path) -> str:
    """How data lie in a folder: as coco, parquet, tar or folder."""
    if any((root / "annotations").glob("*.json")):
        return "coco"
    if any(next(root.glob(pattern), None) for pattern in ("*.parquet", "data/*.parquet", "*/*.parquet")):
        return "parquet"
    return "tar" if any(next(root.glob(pattern), None) for pattern in ("*.tar", "train/*.tar")) else "folder"


def converter(root: Path) -> str:
    """The command that makes of a folder of Pascal VOC's, YOLO's or an exporter's COCO what fit takes, or empty."""
    if any(is_coco(path) for name in (".", *SPLITS) for path in sorted(root.glob(f"{name}/*.json"))):
        return "from-coco"
    marks = (f"{above}/*.xml" for above in ("[Aa]nnotations", "[Aa]nnotations/*", ".", *SPLITS))
    if any(next(root.glob(pattern), None) for pattern in marks):
        return "from-voc"
    if (root / "obj.data").is_file():
        return "from-yolo"
    named = any(next(root.glob(pattern), None) for pattern in ("*.y*ml", "classes.txt", "labels/classes.txt"))
    texts = ("labels/*.txt", "labels/*/*.txt", "*/labels/*.txt")
    labels = any(next(root.glob(pattern), None) for pattern in texts)
    images = {path.stem for path in root.iterdir() if is_image(path.name)}
    return "from-yolo" if named and (labels or any(path.stem in images for path in root.glob("*.txt"))) else ""


def examine(
    name: str, part: Part, first: dict[bytes, tuple[str, str]], workers: int
) -> tuple[Findings, dict[str, list[tuple[str, str]]]]:
    """Read all images of a split; and what of it splits before had, by split: pairs of names.

    Args:
        first: Where each content was met first; grows.
    """
    duplicates: list[tuple[str, str]] = []
    shared: dict[str, list[tuple[str, str]]] = {}
    unreadable, sizes, modes = [], [], Counter[str]()
    with ThreadPoolExecutor(workers) as pool:
        looked = pool.map(partial(_look, part), range(len(part.names)))
        for place, seen in zip(counted(part.names, f"images of {name} read"), looked, strict=True):
            if isinstance(seen, str):
                unreadable.append(seen)
                continue
            digest, size, mode = seen
            sizes.append(size)
            modes[mode] += 1
            split, other = first.setdefault(digest, (name, place))
            if split != name:
                shared.setdefault(split, []).append((other, place))
            elif other != place:
                duplicates.append((place, other))
    sizes.sort(key=lambda size: size[0] * size[1])
    three = [sizes[0], sizes[len(sizes) // 2], sizes[-1]] if sizes else []
    findings = Findings(
        images=len(part.names),
        counts=part.counts,
        sizes=[f"{width} x {height}" for width, height in three],
        modes=modes,
        unreadable=unreadable,
        duplicates=duplicates,
        notes=part.notes,
    )
    return findings, shared


def _look(part: Part, index: int) -> tuple[bytes, tuple[int, int], str] | str:
    try:
        content, image = part.read(index)
    except UnreadableSampleError as error:
        return str(error)
    return blake2b(content, digest_size=16).digest(), image.size, image.mode


def told(name: str, found: Findings) -> str:
    """A split in some lines."""
    width = max(map(len, found.counts), default=0)
    lines = [f"{name}: {plural(found.images, 'image')}, {plural(len(found.counts), 'class', 'classes')}"]
    lines += [f"  {one:{width}}  {count:>8,}" for one, count in found.counts.items()]
    if found.sizes:
        modes = ", ".join(f"{count} {mode}" for mode, count in sorted(found.modes.items()))
        lines.append("  sizes: smallest {}, median {}, largest {} (width x height)".format(*found.sizes) + f"; {modes}")
    for what, names in (("unreadable", found.unreadable), ("duplicates", [" = ".join(p) for p in found.duplicates])):
        lines.append(f"  {what}: {len(names)}" + (f": {_some(names)}" if names else ""))
    return "\n".join([*lines, *(f"  {note}" for note in found.notes)])


def _some(names: Sequence[str]) -> str:
    return "; ".join(names[:SHOWN]) + (f"; and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _differing(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A line for each split that lacks classes of another."""
    every = dict.fromkeys(name for one in counts.values() for name in one)
    lacking = {split: [name for name in every if name not in own] for split, own in counts.items()}
    return [f"classes that {split} lacks: {_some(names)}" for split, names in lacking.items() if names]


def _read_labelled(images: Any, index: int) -> tuple[bytes, Image.Image]:
    return images.content(index), images[index][0]


def _coco(root: Path, options: argparse.Namespace) -> dict[str, Part]:
    """The JSONs below annotations/; of `train.json` or `instances_train.json` the images lie in train/ or in root."""
    if options.annotations:
        return {"images": _coco_part(read_annotations(root / options.annotations, root / options.images))}
    every = sorted((root / "annotations").glob("*.json"))
    if not every:
        raise UserError(f"{root} has no annotations/*.json: give --annotations FILE")
    splits = {path.stem.removeprefix("instances_"): path for path in every if path.stem.startswith("instances_")}
    splits = splits or {path.stem: path for path in every}
    parts = {}
    for split in sorted(splits, key=lambda split: (not split.startswith("train"), split)):
        folders = (root / split, root / "images" / split, root / "images")
        folder = next((folder for folder in folders if folder.is_dir()), root)
        parts[split] = _coco_part(read_annotations(splits[split], folder))
    if not any(split.startswith(("train", "val")) for split in parts):
        print(f"without train and val, which fit asks for: contagg data from-coco {root} -o OUT makes them")
    return parts


def _coco_part(annotations: CocoAnnotations) -> Part:
    names = {c.id: name for c, name in zip(annotations.categories, annotations.unique_names, strict=True)}
    counts = Counter(dict.fromkeys(names.values(), 0))
    crowds = 0
    each, sides = [], []
    for index in range(len(annotations.images)):
        objects = annotations.objects(index)
        counts.update(names[found["category_id"]] for found in objects)
        crowds += sum(bool(found["iscrowd"]) for found in objects)
        each.append(len(objects))
        sides += [max(found["bbox"][2:]) for found in objects if not found["iscrowd"]]
    notes = [
        f"counted are {plural(sum(counts.values()), 'object')}, {crowds} of them crowds; "
        f"{plural(each.count(0), 'image has', 'images have')} none"
    ]
    files, twice = shared(annotations)
    for what, found in (("files that several images name, by id", files), ("names of several categories", twice)):
        notes += [f"{what}: {len(found)}: {_some(found)}"] if found else []
    if sides:
        small, half, large = np.percentile(sides, (5, 50, 95))
        notes += [
            f"objects in an image: median {np.median(each):.0f}, most {max(each)} (model.detections_per_image, "
            "model.detr.queries)",
            f"longer side of an object in pixels: median {half:.0f}, nine in ten from {small:.0f} to {large:.0f} "
            "(model.anchor_size, once the image is resized)",
        ]
    try:
        annotations.require_objects()
    except UserError as error:
        notes.append(f"neither learnt from nor judged by, fit refuses it: {error}")
    return Part(
        names=[entry.file_name for entry in annotations.images],
        read=partial(_read_coco, annotations),
        counts=counts,
        notes=notes,
    )


def _read_coco(annotations: CocoAnnotations, index: int) -> tuple[bytes, Image.Image]:
    entry = annotations.images[index]
    try:
        with open_regular(annotations.folder / entry.file_name) as file:
            content = file.read()
    except (OSError, ValueError) as error:
        raise UnreadableSampleError(entry.file_name, str(error)) from error
    image = read_image(content, entry.file_name)
    if image.size != (entry.width, entry.height):
        said, found = f"{entry.width} x {entry.height}", "{} x {}".format(*image.size)
        raise UnreadableSampleError(entry.file_name, f"the JSON says {said} pixels, upright it has {found}")
    return content, image
