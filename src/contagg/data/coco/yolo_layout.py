"""Where YOLO's images lie, which split they are of, and what the classes are called. Needs no torch.

One file of the folder says it:
data.yaml    path, train, val, test: folders, or lists of images; names: of the classes
obj.data     train, valid, names: the same, a line each; the names stand in a file of their own
classes.txt  names alone, one a line: all images below the folder are taken, or those of images/
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from os.path import normpath
from pathlib import Path
from typing import Any

from contagg.data.coco.faults import Faults
from contagg.data.coco.labelled import SPLITS, read_lines, split_names
from contagg.data.decode import read_regular
from contagg.data.folders import is_hidden, walk
from contagg.errors import UserError, class_name, plural
from contagg.yaml_file import LONGEST_FILE, parse_yaml

_NAMES_ALONE = ("classes.txt", "labels/classes.txt", "obj.names")


@dataclass
class Layout:
    """What the file says of a folder.

    Attributes:
        root: The folder. Nothing outside it is named.
        source: The file's name.
        content: Its keys and values, as data.yaml has them.
        faults: Takes the lines of lists that name nothing.
        notes: What of it was not taken.
    """

    root: Path
    source: str
    content: dict[str, Any]
    faults: Faults
    notes: list[str] = field(default_factory=list)

    def splits(self) -> dict[str, list[tuple[Path, str]]]:
        """Each split's images: the file, and its name below the split's folder. UserError where there is none."""
        places = split_names((key for key in self.content if self.content[key]), f"{self.root}: its {self.source}")
        if "train" not in places:
            raise UserError(f"{self.root}: its {self.source} has no 'train': a folder of images below it is expected")
        found = {}
        for split, key in places.items():
            try:
                found[split] = list(self._images(self.content[key]))
            except UserError as error:
                if split != "test":
                    raise
                self.notes.append(f"test was left out: {error}")  # exporters name it where they have none
        for split, images in found.items():
            if again := len(images) - len(set(images)):
                self.notes.append(
                    f"{plural(again, 'image stands', 'images stand')} more than once in the list of {split}: taken once"
                )
        return {split: list(dict.fromkeys(images)) for split, images in found.items()}

    def classes(self) -> list[str]:
        """Their names. UserError if there are none."""
        return class_names(self.content, self.source)

    def keypoints(self) -> int:
        """How many numbers follow a box in a line: those of a skeleton's points."""
        shape = self.content.get("kpt_shape") or [0, 0]
        numbers = isinstance(shape, list) and len(shape) == 2 and all(type(number) is int for number in shape)
        if not numbers or shape[0] < 0 or shape[1] not in ((2, 3) if shape[0] else (0, 2, 3)):
            raise UserError(
                f"{self.root}: its {self.source} has the kpt_shape {shape!r:.40}: two numbers are expected, how many "
                "points there are and the 2 or 3 numbers of each, such as [17, 3]"
            )
        return int(shape[0] * shape[1])

    def shown(self, path: Path) -> str:
        """Below the root."""
        return str(path.relative_to(self.root))

    def place(self, value: Any) -> Path:
        """A file or folder that is named, below `path` or the root. UserError for what is not there, or elsewhere."""
        if not isinstance(value, str) or not value:
            raise UserError(f"{self.root}: its {self.source} names {value!r:.80} where a folder was expected")
        below = self.content.get("path")
        return _place(self.root, value, self.source, below if isinstance(below, str) else "")

    def _images(self, value: Any) -> Iterator[tuple[Path, str]]:
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

    def _of_list(self, listed: Path) -> Iterator[Path]:
        for number, line in enumerate(read_lines(listed), 1):
            if line.strip():
                with self.faults.of(f"{self.shown(listed)}, line {number}: "):
                    yield self.place(line.strip())


def _place(root: Path, value: str, source: str, below: str = "") -> Path:
    """What is called so, seen from the root: as it stands, or what is left of a path of another place or machine.

    Of `../train/images` and `D:\\cells\\train\\images` that is `train/images`. A folder's last name alone is none but
    a split's: `images` could be those of any split.
    """
    home = Path(normpath(root.absolute()))
    words = [word for word in re.split(r"[/\\]", value) if word not in ("", ".", "..")]
    tails = [Path(*words[start:]) for start in range(len(words))]
    named = [Path(below, value), Path(value), *(tail for tail in tails if len(tail.parts) > 1 or tail.name in SPLITS)]
    for one in (*named, *tails[-1:]):
        place = Path(normpath(home / one))
        if place.is_relative_to(home) and (place.exists() if one in named else place.is_file()):
            return root / place.relative_to(home)
    raise UserError(f"there is no {value!r} in {root}, as its {source} says; what lies elsewhere is not read")


def read_layout(root: Path, faults: Faults) -> Layout:
    """Of data.yaml, or the only other YAML of the folder, or of obj.data or classes.txt. UserError where all lack."""
    found = sorted(p for p in root.iterdir() if p.suffix in (".yaml", ".yml") and not is_hidden(p.name))
    chosen = [path for path in found if path.stem == "data"] or found
    if len(chosen) == 1:
        return Layout(root, chosen[0].name, _of_yaml(chosen[0]), faults)
    if chosen:
        names = ", ".join(path.name for path in chosen)
        raise UserError(f"{root} has no data.yaml: YOLO's names classes and folders in one of {names}")
    if (root / "obj.data").is_file():
        return Layout(root, "obj.data", _of_darknet(root), faults)
    names_alone = next((name for name in _NAMES_ALONE if (root / name).is_file()), None)
    if names_alone is None:
        raise UserError(
            f"{root} has no data.yaml: YOLO's names classes and folders in it; nor a classes.txt with a name a line"
        )
    return Layout(root, names_alone, {**_folders(root), "names": _names_in(root / names_alone)}, faults)


def _of_yaml(path: Path) -> dict[str, Any]:
    try:
        text = read_regular(path, LONGEST_FILE).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    content = parse_yaml(text, path)
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold keys and values: train, val, names")
    return content


def _of_darknet(root: Path) -> dict[str, Any]:
    pairs = (line.partition("=") for line in read_lines(root / "obj.data"))
    said = {key.strip(): value.strip() for key, _, value in pairs}
    names = _place(root, said.get("names") or "obj.names", "obj.data")
    return {key: said[key] for key in SPLITS if key in said} | {"names": _names_in(names)}


def _names_in(path: Path) -> list[str]:
    return [line.strip() for line in read_lines(path) if line.strip()]


def _folders(root: Path) -> dict[str, str]:
    """The splits where folders are called like them, else all images."""
    above = "images/" if (root / "images").is_dir() else ""
    found = {name: f"{above}{name}" for name in SPLITS if (root / above / name).is_dir()}
    return found if "train" in found else {"train": above or "."}


def class_names(content: dict[str, Any], source: str = "data.yaml") -> list[str]:
    """`names`, a list or numbers and names, in the order of the numbers. UserError if it is none, or not as `nc` says.

    >>> class_names({"names": {1: "dog", 0: "cat"}, "nc": 2})
    ['cat', 'dog']
    """
    names = content.get("names")
    if isinstance(names, dict):
        if missing := [number for number in range(len(names)) if number not in names]:
            raise UserError(f"{source}: its names are numbered from 0, and {missing[0]} is missing")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise UserError(f"{source}: 'names' must be a list of the classes, not {names!r:.80}")
    if wrong := [name for name in names if isinstance(name, bool) or not isinstance(name, str | int | float)]:
        raise UserError(f"{source}: the name of a class must be a text, not {wrong[0]!r:.40}; 'null' is one in quotes")
    found = [class_name(str(name)) for name in names]
    if len(set(found)) < len(found):
        twice = next(name for name in found if found.count(name) > 1)
        raise UserError(f"{source}: the name {twice!r} stands twice")
    if content.get("nc", len(found)) != len(found) or content.get("nc") is True:
        raise UserError(f"{source}: nc is {content['nc']!r:.40}, but it has {plural(len(found), 'name')}")
    return found
