"""Which XMLs of Pascal VOC are of which split, and where their images lie. Needs no torch.

    VOC/ImageSets/Main/train.txt val.txt      which images are of which split, if there are such files
    VOC/Annotations/a.xml  VOC/JPEGImages/a.jpg

or annotations/ and images/; or train/, valid/ (or val/), test/, or one folder, with a.xml beside a.jpg. What lies in
folders below Annotations/ has its image in a folder of the same name below JPEGImages/, or in JPEGImages/ itself.
"""

from dataclasses import dataclass, field
from pathlib import Path

from contagg.data.coco.labelled import read_lines, split_names
from contagg.data.folders import is_hidden
from contagg.errors import UserError


@dataclass(frozen=True)
class Mark:
    """An XML.

    Attributes:
        name: As lists call it: below the folder of XMLs, without ending.
        folder: Where its image lies.
        below: A folder above that: an image is called by its path below.
    """

    xml: Path
    name: str
    folder: Path
    below: Path


@dataclass
class Layout:
    """The XMLs of a folder by split; of one split, `all`, where the folder does not say.

    Attributes:
        every: All XMLs, also those of no split.
        notes: What a person should know.
    """

    splits: dict[str, list[Mark]]
    every: list[Mark]
    notes: list[str] = field(default_factory=list)


def read_layout(root: Path, by_hash: bool) -> Layout:
    """As the folder says; with `by_hash` all in one, whatever it says. UserError where there are no XMLs."""
    inner = split_names((path.name for path in sorted(root.iterdir()) if path.is_dir()), str(root))
    if inner and _inner(root, "annotations") is None:
        below = root if by_hash else None  # images of two splits may have one name
        found = {split: _marks(root / name, below) for split, name in inner.items()}
        every = [mark for marks in found.values() for mark in marks]
        return Layout({"all": every} if by_hash else found, every)
    marks = _marks(root)
    lists = {path.stem: path for path in sorted((root / "ImageSets" / "Main").glob("*.txt"))}
    wanted = split_names(lists, f"{root}/ImageSets/Main")
    alone = ""
    if not {"train", "val"} <= wanted.keys():
        alone = " and ".join(f"{name}.txt" for name in wanted.values())
        wanted = {"train": "trainval", "test": "test"} if {"trainval", "test"} <= lists.keys() else {}
    if by_hash or not wanted:
        said = f"ImageSets/Main has {alone} but not both train.txt and val.txt: split by a hash of the names instead"
        return Layout({"all": marks}, marks, [said] if alone and not by_hash else [])
    found = {split: _listed(lists[name], {mark.name: mark for mark in marks}) for split, name in wanted.items()}
    left = {mark.name for mark in marks} - {mark.name for some in found.values() for mark in some}
    said = f"{len(left):,} XMLs stand in none of {', '.join(f'{name}.txt' for name in wanted.values())}: left out"
    return Layout(found, marks, [said] if left else [])


def _listed(path: Path, known: dict[str, Mark]) -> list[Mark]:
    """A list has a name a line; some have a number behind it, and names may have spaces."""
    lines = [line.strip() for line in read_lines(path) if line.strip()]
    names = [line if line in known else line.split()[0] for line in lines]
    if missing := [line for line, name in zip(lines, names, strict=True) if name not in known]:
        more = f", and {len(missing) - 1:,} more," if len(missing) > 1 else ""
        raise UserError(f"{path} lists {missing[0]!r:.80}{more} without an XML")
    return [known[name] for name in dict.fromkeys(names)]


def _marks(folder: Path, below: Path | None = None) -> list[Mark]:
    marks = _inner(folder, "annotations")
    images = _inner(folder, "jpegimages") or _inner(folder, "images") if marks else folder
    if images is None:
        raise UserError(f"{folder} has {marks.name if marks else ''}/ but no JPEGImages/ or images/")
    marks = marks or folder
    found = []
    for path in sorted(marks.rglob("*")):
        inside = path.relative_to(marks)
        if path.suffix.lower() == ".xml" and not any(map(is_hidden, inside.parts)):
            near = images / inside.parent
            name = inside.with_suffix("").as_posix()
            found.append(Mark(path, name, near if near.is_dir() else images, below or images))
    if not found:
        raise UserError(f"{marks} has no XML files: Pascal VOC has one for each image")
    return found


def _inner(folder: Path, name: str) -> Path | None:
    """The folder in it that is called so, in whatever case."""
    return next((path for path in sorted(folder.iterdir()) if path.name.lower() == name and path.is_dir()), None)
