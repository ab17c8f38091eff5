"""COCO JSONs as annotation tools export them, made into two splits that `fit` takes as they are. Needs no torch.

annotations/instances_default.json, images/...    one JSON for all, images anywhere below the folder
result.json, images/...                           the same
train/_annotations.coco.json, train/a.jpg         a folder a split

Ids may be texts, missing or with gaps, names of files those of another machine, sizes and areas missing, and boxes
missing where there are outlines.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from os.path import commonpath
from pathlib import Path
from typing import Any

from contagg.data.coco.annotations import read_content
from contagg.data.coco.entries import given, text
from contagg.data.coco.faults import Faults
from contagg.data.coco.labelled import SPLITS, Labelled, Object, Reading, clipped, with_validation
from contagg.data.coco.masks import LARGEST, check, extent
from contagg.data.decode import UnreadableSampleError, read_size
from contagg.data.folders import walk
from contagg.errors import UserError, class_name, plural
from contagg.output import counted


@dataclass
class CocoReader:
    """Reads the JSONs of a folder.

    Attributes:
        root: The folder. Nothing outside it is read, whatever the JSONs say.
        faults: Takes what is wrong, each with its file and entry.
        clip_boxes: Pixels that a box may reach beyond its image: it is clipped.
    """

    root: Path
    faults: Faults
    clip_boxes: float = 1.0
    _seen: Counter[str] = field(default_factory=Counter)
    _names: list[str] = field(default_factory=list)
    _idle: set[str] = field(default_factory=set)

    def read(self, one_in: int = 5) -> Reading:
        """All images and objects. UserError where there is nothing of the kind, or nothing in it."""
        contents = {split: (path, read_content(path)) for split, path in jsons_of(self.root).items()}
        files = _by_name(self.root)
        names = {split: self._categories(path, content) for split, (path, content) in contents.items()}
        self._names = list(dict.fromkeys(name for some in names.values() for name in some.values()))
        found = {
            split: self._images(split, path, content, names[split], files)
            for split, (path, content) in contents.items()
        }
        self.faults.settle()
        used = Counter(one.name for images in found.values() for image in images for one in image.objects)
        if not used:
            raise UserError(f"{self.root}: no object is marked in any image")
        return Reading(self._chosen(contents, used), with_validation(found, one_in), list(self._notes()))

    def _categories(self, path: Path, content: Mapping[str, Any]) -> dict[str, str]:
        """Names by id, as a text, in the order of the ids."""
        found: dict[str, str] = {}
        used = _used(content)
        for entry in content["categories"]:
            with self.faults.of(f"{self._shown(path)}, category {entry!r:.80}"):
                name, number = class_name(text(entry, "name")), _id(entry, "id")
                if number in found:
                    raise UserError(": its id is given twice")
                like = [one for one, other in found.items() if other == name]
                idle = next((one for one in (*like, number) if like and one not in used), None)
                found[number] = name
                if like and idle is None:
                    raise UserError(f": {name!r} is also the name of category {like[0]}, and both have objects")
                if idle is not None:
                    self._idle.add(name)
                    del found[idle]
        return dict(sorted(found.items(), key=lambda pair: (len(pair[0]), pair[0])))

    def _chosen(self, contents: Mapping[str, tuple[Path, Mapping[str, Any]]], used: Counter[str]) -> list[str]:
        """Without those that only stand above others: some exporters begin with the project's name."""
        entries = [entry for _, content in contents.values() for entry in content["categories"]]
        above = {str(entry.get("supercategory")) for entry in entries if entry["name"] != entry.get("supercategory")}
        left = [name for name in self._names if name in above and not used[name]]
        self._seen["above"] = len(left) + len(self._idle)
        return [name for name in self._names if name not in left]

    def _images(
        self, split: str, path: Path, content: Mapping[str, Any], names: Mapping[str, str], files: "_Files"
    ) -> list[Labelled]:
        entries: defaultdict[str, list[Any]] = defaultdict(list)
        for place, entry in enumerate(content["annotations"], 1):
            with self.faults.of(f"{self._shown(path)}, annotation number {place}"):
                entries[_id(entry, "image_id")].append((place, entry))
        found, ids = [], set[str]()
        for entry in counted(content["images"], "images looked at"):
            with self.faults.of(f"{self._shown(path)}, image {entry.get('id') if isinstance(entry, dict) else entry}"):
                if (number := _id(entry, "id")) in ids:
                    raise UserError(": its id is given twice")
                ids.add(number)
                file = self.root / _file_of(text(entry, "file_name"), split, files)
                size = _size_of(file, entry)
                objects = list(self._objects(path, entries[number], size, names))
                found.append(Labelled(file, "", size, objects))
        with self.faults.of(self._shown(path)):
            if lost := [number for number in entries if number not in ids]:
                raise UserError(f": annotations are of image {lost[0]}, which is not among the images")
        common = commonpath([image.file.parent for image in found]) if found else ""
        return [replace(image, name=str(image.file.relative_to(common))) for image in found]

    def _objects(
        self, path: Path, entries: list[tuple[int, Any]], size: tuple[int, int], names: Mapping[str, str]
    ) -> Iterator[Object]:
        for place, entry in entries:
            where = f"{self._shown(path)}, annotation {entry.get('id', f'number {place}')}"
            name = self.faults.result(where, _name_of, entry, names)
            outline = self.faults.result(where, _outline, entry.get("segmentation"), size)
            box = self.faults.result(where, _box, entry, outline, size)
            if box and (box[2] <= box[0] or box[3] <= box[1]):
                self._seen["thin"] += 1
                continue
            self._seen["outlines" if outline else "boxes"] += 1
            within = self.faults.result(where, clipped, box, size, self.clip_boxes) if box else None
            if name is not None and within:
                yield Object(name, within, outline, crowd=entry.get("iscrowd") in (1, True))

    def _shown(self, path: Path) -> str:
        return str(path.relative_to(self.root))

    def _notes(self) -> Iterator[str]:
        if self._seen["thin"]:
            yield f"{plural(self._seen['thin'], 'object')} without width or height left out"
        if self._seen["above"]:
            groups = plural(self._seen["above"], "category that only names", "categories that only name")
            yield f"{groups} a group of others: left out"
        if self._seen["boxes"] and self._seen["outlines"]:
            yield (
                f"{plural(self._seen['outlines'], 'object has an outline', 'objects have outlines')} and "
                f"{self._seen['boxes']:,} a box alone: Mask R-CNN "
                "needs outlines of all"
            )


_Files = Mapping[str, list[str]]
"""Paths of images below the root, by their last names."""


def is_coco(path: Path) -> bool:
    """Whether a JSON is one of instances."""
    try:
        return bool(read_content(path))
    except UserError:
        return False


def jsons_of(root: Path) -> dict[str, Path]:
    """The JSONs of instances by split; one, of `all`, where there are no splits. UserError where there are none."""
    below = sorted(root.glob("[Aa]nnotations/*.json"))
    below = [path for path in below if path.stem.startswith("instances")] or below
    every = below or sorted(path for name in SPLITS for path in root.glob(f"{name}/*.json"))
    every = every or sorted(root.glob("*.json"))
    if not every:
        raise UserError(f"{root} has no COCO JSON: in annotations/, train/ or the folder itself one is looked for")
    if len(every) == 1:
        return {"all": every[0]}
    found: dict[str, Path] = {}
    for path in every:
        words = re.split(r"[^a-z]+", f"{path.parent.name} {path.stem}".lower())
        split = next((SPLITS[word] for word in words if word in SPLITS), None)
        if split is None or split in found:
            other = f" and {found[split].relative_to(root)}" if split else ""
            raise UserError(
                f"{root}: of which split is {path.relative_to(root)}{other}? Call them train.json, val.json"
            )
        found[split] = path
    return found


def _by_name(root: Path) -> _Files:
    found = defaultdict(list)
    for path in walk(root, [""]).paths:
        found[path.rsplit("/", 1)[-1]].append(path)
    return found


def _file_of(name: str, split: str, files: _Files) -> str:
    """The image whose path ends as the JSON says, as far as it does: the rest may be of another machine."""
    words = [word for word in re.split(r"[/\\]", name) if word not in ("", ".", "..")]
    for start in range(len(words)):
        tail = "/".join(words[start:])
        found = [path for path in files.get(words[-1], ()) if f"/{path}".endswith(f"/{tail}")]
        of_split = [path for path in found if split in (SPLITS.get(word) for word in path.split("/")[:-1])]
        if len(found) == 1 or len(of_split) == 1:
            return (of_split or found)[0]
        if found:
            raise UserError(f": which image is {name!r:.80}: {', '.join(found[:3])}?")
    raise UserError(f": there is no image {name!r:.80} in the folder")


def _id(entry: Any, key: str) -> str:
    """7, 7.0 and "7" are one."""
    value = given(entry, key)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise UserError(f": its {key!r} must be a number or a text, not {value!r:.40}")
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _name_of(entry: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Of an annotation's category."""
    if (category := _id(entry, "category_id")) not in names:
        raise UserError(f": category {category} is not declared")
    return names[category]


def _used(content: Mapping[str, Any]) -> set[str]:
    """The ids of categories that have objects; what is wrong with an annotation is said where it is read."""
    ids = (entry.get("category_id") for entry in content["annotations"] if isinstance(entry, dict))
    return {_id({"id": one}, "id") for one in ids if isinstance(one, int | float | str) and not isinstance(one, bool)}


def _size_of(file: Path, entry: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of the file. UserError where the JSON says others."""
    try:
        width, height = read_size(file, file.name)
    except UnreadableSampleError as error:
        raise UserError(f": {error}") from error
    said = entry.get("width") or width, entry.get("height") or height
    if said != (width, height):
        raise UserError(f" is {said[0]} x {said[1]} pixels there, {file.name} has {width} x {height} upright")
    return height, width


def _outline(segmentation: Any, size: tuple[int, int]) -> Any:
    """None for what has none; polygons of fewer than three points are none."""
    if isinstance(segmentation, list):
        if segmentation and all(isinstance(value, int | float) for value in segmentation):
            segmentation = [segmentation]  # one polygon not within a list
        segmentation = [part for part in segmentation if not isinstance(part, list) or len(part) >= 6]
    if not segmentation:
        return None
    try:
        check(segmentation, size)
    except UserError as error:
        raise UserError(f": {error}") from error
    return segmentation


def _box(entry: Mapping[str, Any], outline: Any, size: tuple[int, int]) -> tuple[float, float, float, float]:
    box: Any = entry.get("bbox") or (extent(outline, size) if outline else None)
    if not (isinstance(box, list) and len(box) == 4 and all(type(value) in (int, float) for value in box)):
        raise UserError(f": its box must be four numbers x, y, width, height, not {box!r:.100}")
    if not all(-LARGEST < value < LARGEST for value in box) or min(box[2:]) < 0:
        raise UserError(f": its box {box!r:.100} has a negative width or height, or is not finite")
    x, y, width, height = map(float, box)
    return x, y, x + width, y + height
