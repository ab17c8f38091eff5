"""Boxes and polygons as YOLO has them: a text an image, a line an object, in fractions of the image. Needs no torch.

data.yaml                      path, train, val, test: folders, or lists of images; names: of the classes
images/train/a.jpg             or train/images/a.jpg
labels/train/a.txt             or train/labels/a.txt
    0 0.5 0.5 0.2 0.1          class, centre x, centre y, width, height
    0 0.1 0.1 0.3 0.1 0.2 0.3  class, x and y of each corner of a polygon
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from os.path import normpath
from pathlib import Path
from typing import Any

from contagg.data.coco.faults import Faults
from contagg.data.coco.labelled import SPLITS, Box, Labelled, Object, Reading, check_polygon, clipped, hold_out
from contagg.data.decode import UnreadableSampleError, read_regular, read_size
from contagg.data.folders import is_hidden, walk
from contagg.errors import UserError, class_name
from contagg.output import counted
from contagg.yaml_file import LONGEST_FILE, parse_yaml

LARGEST_FILE = 16 << 20
"""Bytes of a text; a thousand polygons of a hundred corners have two million."""
_NUMBER = re.compile(r"[-+]?(\d{1,12}\.?\d{0,30}|\.\d{1,30})([eE][-+]?\d{1,2})?")


@dataclass
class Places:
    """Where images lie, as data.yaml says it, within the root.

    Attributes:
        root: The folder of data.yaml.
        below: Its `path`, which is mostly one of another machine.
        faults: Takes the lines of lists that name nothing.
    """

    root: Path
    below: Any
    faults: Faults

    def images(self, value: Any) -> Iterator[tuple[Path, str]]:
        """Each image's file, and its name below its split's folder."""
        values = value if isinstance(value, list) else [value]
        places = [self.place(one) for one in values]
        for place in places:
            if place.is_dir():
                found = walk(place, [""]).paths
                if not found:
                    raise UserError(f"{place} has no images")
                yield from ((place / path, path if len(places) == 1 else self.shown(place / path)) for path in found)
            else:
                yield from ((path, self.shown(path)) for path in self._of_list(place))

    def place(self, value: Any) -> Path:
        """A file or folder that is named, below `below` or the root. UserError for what is not there, or elsewhere."""
        if not isinstance(value, str) or not value:
            raise UserError(f"{self.root}: its data.yaml names {value!r:.80} where a folder was expected")
        plain = re.sub(r"^(\.\./)+", "", value)  # what one exporter writes before train/images
        starts = [self.below, ""] if isinstance(self.below, str) else [""]
        for one in (Path(start, name) for start in starts for name in (value, plain)):
            place = Path(normpath(self.root / one))
            if place.is_relative_to(normpath(self.root)) and place.exists():
                return place
        raise UserError(f"there is no {value!r} in {self.root}, as its data.yaml says; what lies elsewhere is not read")

    def shown(self, path: Path) -> str:
        """Below the root."""
        return str(path.relative_to(normpath(self.root)))

    def _of_list(self, listed: Path) -> Iterator[Path]:
        for number, line in enumerate(_lines(listed), 1):
            if line.strip():
                with self.faults.of(f"{self.shown(listed)}, line {number}: "):
                    yield self.place(line.strip().removeprefix("./"))


@dataclass
class YoloReader:
    """Reads the texts of a folder.

    Attributes:
        root: The folder. Nothing outside it is read, whatever its data.yaml says.
        faults: Takes what is wrong, each with its file and line.
        clip_boxes: Pixels that a box or a corner may reach beyond its image: it is clipped.
    """

    root: Path
    faults: Faults
    clip_boxes: float = 1.0
    _seen: Counter[str] = field(default_factory=Counter)

    def read(self, one_in: int = 5) -> Reading:
        """All images and objects; an image without a text has none.

        Args:
            one_in: Of so many training images one is for validation where none are named.

        Raises:
            UserError: there is nothing of the kind, or nothing in it.
        """
        content = read_data_yaml(self.root)
        classes = class_names(content)
        places = {SPLITS[key]: content[key] for key in SPLITS if content.get(key)}
        if "train" not in places:
            raise UserError(f"{self.root}: its data.yaml has no 'train': a folder of images below it is expected")
        where = Places(self.root, content.get("path"), self.faults)
        listed = {split: list(where.images(value)) for split, value in places.items()}
        every = [(split, file, name) for split, images in listed.items() for file, name in images]
        found: dict[str, list[Labelled]] = {split: [] for split in listed}
        for split, file, name in counted(every, "images looked at"):
            with self.faults.of(where.shown(file)):
                found[split].append(self._image(file, name, classes))
        self.faults.settle()
        if not any(image.objects for image in found["train"]):
            raise UserError(f"{self.root}: none of {len(found['train'])} training images has a label beside labels/")
        if "val" not in found:
            found |= hold_out(found["train"], one_in)
        return Reading(classes, found, list(self._notes()))

    def _shown(self, path: Path) -> str:
        return str(path.relative_to(normpath(self.root)))

    def _image(self, file: Path, name: str, classes: Sequence[str]) -> Labelled:
        try:
            width, height = read_size(file, file.name)
        except UnreadableSampleError as error:
            raise UserError(f": {error.reason}") from error
        labels = labels_of(file)
        self._seen["without"] += labels is None
        objects: dict[str, Object] = {}
        for number, line in enumerate(_lines(labels) if labels else (), 1):
            words = line.split()
            if words and labels:
                with self.faults.of(f"{self._shown(labels)}, line {number}"):
                    self._seen["twice"] += " ".join(words) in objects
                    found = self._object(words, (height, width), classes)
                    self._seen["polygons" if found.polygon else "boxes"] += 1
                    objects[" ".join(words)] = found
        return Labelled(file, name, (height, width), list(objects.values()))

    def _object(self, words: list[str], size: tuple[int, int], classes: Sequence[str]) -> Object:
        wrong = next((word for word in words if not _NUMBER.fullmatch(word)), None)
        if wrong is not None:
            raise UserError(f": {wrong!r:.40} is no number")
        number, *values = map(float, words)
        if number not in range(len(classes)):
            raise UserError(f": class {words[0]} is none of the {len(classes)} that data.yaml names, from 0")
        name = classes[int(number)]
        if len(values) == 4:
            return Object(name, clipped(_corners(values, size), size, self.clip_boxes))
        if len(values) < 6 or len(values) % 2:
            raise UserError(
                f": {len(words)} values; a box has 5, a polygon of n corners 1 + 2 n, and 3 or more corners"
            )
        xs, ys = [x * size[1] for x in values[::2]], [y * size[0] for y in values[1::2]]
        box = clipped((min(xs), min(ys), max(xs), max(ys)), size, self.clip_boxes)
        corners = ((min(max(x, 0), size[1]), min(max(y, 0), size[0])) for x, y in zip(xs, ys, strict=True))
        polygon = [value for corner in corners for value in corner]
        check_polygon(polygon, size)
        return Object(name, box, polygon)

    def _notes(self) -> Iterator[str]:
        if self._seen["without"]:
            yield f"{self._seen['without']:,} images have no text in labels/: they are taken for images without objects"
        if self._seen["twice"]:
            yield f"{self._seen['twice']:,} lines stand twice in their texts: each was taken once"
        if self._seen["boxes"] and self._seen["polygons"]:
            yield (
                f"{self._seen['polygons']:,} objects are polygons and {self._seen['boxes']:,} boxes: Mask R-CNN needs "
                "polygons of all"
            )


def read_data_yaml(root: Path) -> dict[str, Any]:
    """What data.yaml says, or the only other YAML of the folder. UserError where there is none that can be read."""
    found = sorted(p for p in root.iterdir() if p.suffix in (".yaml", ".yml") and not is_hidden(p.name))
    chosen = [path for path in found if path.stem == "data"] or found
    if len(chosen) != 1:
        names = f"one of {', '.join(path.name for path in chosen)}" if chosen else "it"
        raise UserError(f"{root} has no data.yaml: YOLO's names classes and folders in {names}")
    try:
        text = read_regular(chosen[0], LONGEST_FILE).decode()
    except (OSError, ValueError) as error:
        raise UserError(f"{chosen[0]} cannot be read: {error}") from error
    content = parse_yaml(text, chosen[0])
    if not isinstance(content, dict):
        raise UserError(f"{chosen[0]} must hold keys and values: train, val, names")
    return content


def class_names(content: dict[str, Any]) -> list[str]:
    """`names`, a list or numbers and names, in the order of the numbers. UserError if it is none, or not as `nc` says.

    >>> class_names({"names": {1: "dog", 0: "cat"}, "nc": 2})
    ['cat', 'dog']
    """
    names = content.get("names")
    if isinstance(names, dict):
        if missing := [number for number in range(len(names)) if number not in names]:
            raise UserError(f"data.yaml: its names are numbered from 0, and {missing[0]} is missing")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise UserError(f"data.yaml: 'names' must be a list of the classes, not {names!r:.80}")
    found = [class_name(str(name) if isinstance(name, int | float) else name) for name in names]
    if len(set(found)) < len(found):
        twice = next(name for name in found if found.count(name) > 1)
        raise UserError(f"data.yaml: the name {twice!r} stands twice")
    if content.get("nc", len(found)) != len(found):
        raise UserError(f"data.yaml: nc is {content['nc']!r:.40}, but there are {len(found)} names")
    return found


def labels_of(image: Path) -> Path | None:
    """The text of an image: in labels/ where its path has images/, or beside it; None where there is none."""
    parts = list(image.with_suffix(".txt").parts)
    places = [image.with_suffix(".txt")]
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[:-1][::-1].index("images")
        places.insert(0, Path(*parts[:last], "labels", *parts[last + 1 :]))
    return next((place for place in places if place.is_file()), None)


def _corners(values: Sequence[float], size: tuple[int, int]) -> Box:
    x, y, width, height = values
    half = width / 2, height / 2
    rounded = [round(side, 9) for side in (x - half[0], y - half[1], x + half[0], y + half[1])]
    return rounded[0] * size[1], rounded[1] * size[0], rounded[2] * size[1], rounded[3] * size[0]


def _lines(path: Path) -> list[str]:
    try:
        return read_regular(path, LARGEST_FILE).decode().splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f": {path.name} cannot be read: {error}") from error
