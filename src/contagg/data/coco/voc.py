"""Boxes as Pascal VOC has them: an XML an image, pixels counted from 1 and the last one included. Needs no torch.

`voc_layout` says which XML is of which image's folder, and of which split.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from contagg.data.coco.faults import Faults
from contagg.data.coco.labelled import LARGEST_FILE, Labelled, Object, Reading, clipped, with_validation
from contagg.data.coco.masks import LARGEST
from contagg.data.coco.voc_layout import Layout, Mark, read_layout
from contagg.data.decode import UnreadableSampleError, read_regular, read_size
from contagg.data.folders import is_image
from contagg.errors import UserError, class_name, nearest, plural
from contagg.output import counted

MOST_ELEMENTS = 500_000
DEEPEST = 30


@dataclass
class Element:
    """Of an XML: its name, the line where it begins, what is in it."""

    name: str
    line: int
    children: list["Element"] = field(default_factory=list)
    text: str = ""

    def child(self, name: str) -> "Element | None":
        """The first of a name."""
        return next((one for one in self.children if one.name == name), None)

    def said(self, name: str) -> str:
        """The text of the first child of a name, without the space around it; empty where there is none."""
        found = self.child(name)
        return found.text.strip() if found else ""

    def number(self, name: str) -> float:
        """The first child of a name as a number. UserError if it is none."""
        text = self.said(name)
        if not re.fullmatch(r"[-+]?\d{1,12}(\.\d*)?", text) or abs(float(text)) > LARGEST:
            raise UserError(f": its <{name}> must be a number, not {text!r:.40}")
        return float(text)


class _Builder:
    """Takes what expat meets and makes elements of it, within bounds."""

    def __init__(self) -> None:
        self.parser = expat.ParserCreate()
        self.top = Element("", 0)
        self._opened, self._count = [self.top], 0
        self.parser.buffer_text = True
        self.parser.StartElementHandler, self.parser.EndElementHandler = self._begin, self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.StartDoctypeDeclHandler = self.parser.EntityDeclHandler = self._refuse

    def _begin(self, name: str, attributes: dict[str, str]) -> None:
        self._count += 1
        if self._count > MOST_ELEMENTS or len(self._opened) > DEEPEST:
            raise UserError(f": more than {MOST_ELEMENTS:,} elements, or more than {DEEPEST} within each other")
        self._opened[-1].children.append(Element(name, self.parser.CurrentLineNumber))
        self._opened.append(self._opened[-1].children[-1])

    def _end(self, name: str) -> None:
        self._opened.pop()

    def _text(self, characters: str) -> None:
        self._opened[-1].text += characters

    def _refuse(self, *_: object) -> None:
        raise UserError(": it declares a document type, which annotations have no use for and which could do harm")


def read_xml(path: Path) -> Element:
    """The outermost element of a file.

    Nothing but elements and their text is read, with bounds on all: a document type, which could declare entities that
    stand for each other or for files, is refused.

    Raises:
        UserError: no such file, no XML, or beyond the bounds.
    """
    builder = _Builder()
    try:
        builder.parser.Parse(read_regular(path, LARGEST_FILE), True)
    except (expat.ExpatError, OSError, ValueError, LookupError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f": it is no readable XML: {error}") from error
    return builder.top.children[0]


@dataclass
class VocReader:
    """Reads the XMLs of a folder.

    Attributes:
        root: The folder.
        faults: Takes what is wrong, each with its file and line.
        clip_boxes: Pixels that a box may reach beyond its image: it is clipped.
        from_zero: Pixels count from 0, and a box ends where its last pixel ends, as many tools write it.
    """

    root: Path
    faults: Faults
    clip_boxes: float = 1.0
    from_zero: bool = False
    _seen: Counter[str] = field(default_factory=Counter)

    def read(self, classes: Sequence[str] = (), one_in: int = 5, by_hash: bool = False) -> Reading:
        """All images and boxes.

        Args:
            classes: Their names in the order of their ids; without, those that are met, sorted.
            one_in: Of so many images one is for validation where there are no splits, or `by_hash` whether there are.

        Raises:
            UserError: there is nothing of the kind, or nothing in it.
        """
        layout = read_layout(self.root, by_hash)
        every = [(split, mark) for split, marks in layout.splits.items() for mark in marks]
        found: dict[str, list[Labelled]] = {split: [] for split in layout.splits}
        stems = {folder: _stems(folder) for folder in {mark.folder for _, mark in every}}
        for split, mark in counted(every, "annotations read"):
            with self.faults.of(str(mark.xml.relative_to(self.root))):
                found[split].append(self._image(mark, stems[mark.folder]))
        self.faults.settle()
        names = sorted({one.name for images in found.values() for image in images for one in image.objects})
        if not names:
            raise UserError(f"{self.root}: no object is marked in any image")
        if classes:
            _check_names(names, classes, found, self.faults)
        notes = [*layout.notes, *_unmarked(self.root, layout, found), *self._notes()]
        return Reading(classes or names, with_validation(found, one_in), notes)

    def _image(self, mark: Mark, stems: dict[str, list[str]]) -> Labelled:
        document = read_xml(mark.xml)
        file = _image_of(mark.xml, document, mark.folder, stems)
        size = _size_of(file, document)
        objects = []
        for one in document.children:
            if one.name == "object":
                with self.faults.of(f"{mark.xml.relative_to(self.root)}, line {one.line}"):
                    objects.append(self._object(one, size))
        return Labelled(file, str(file.relative_to(mark.below)), size, objects)

    def _object(self, one: Element, size: tuple[int, int]) -> Object:
        box, name = one.child("bndbox"), one.said("name")
        if box is None or not name:
            raise UserError(f": the object has no <{'name' if box else 'bndbox'}>")
        left, top, right, bottom = (box.number(side) for side in ("xmin", "ymin", "xmax", "ymax"))
        first = 0 if self.from_zero else 1
        self._seen["at zero"] += min(left, top) == 0
        self._seen["polygons"] += one.child("polygon") is not None
        crowd = one.said("difficult") == "1"
        self._seen["difficult"] += crowd
        within = clipped((left - first, top - first, right, bottom), size, self.clip_boxes)
        return Object(class_name(name), within, crowd=crowd)

    def _notes(self) -> Iterator[str]:
        if self._seen["at zero"] and not self.from_zero:
            yield (
                f"{plural(self._seen['at zero'], 'box begins', 'boxes begin')} at pixel 0, and VOC's first is 1: "
                "clipped; if your tool counts from 0, say --from-zero"
            )
        if self._seen["difficult"]:
            yield (
                f"{plural(self._seen['difficult'], 'difficult object')} became crowds: neither learnt nor "
                "counted as missed"
            )
        if self._seen["polygons"]:
            yield f"{plural(self._seen['polygons'], 'polygon was', 'polygons were')} left out: of VOC boxes are read"


def _stems(folder: Path) -> dict[str, list[str]]:
    found = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if is_image(path.name):
            found[path.stem].append(path.name)
    return found


def _unmarked(root: Path, layout: Layout, found: Mapping[str, Sequence[Labelled]]) -> Iterator[str]:
    """What is to be said of images that lie among the others without an XML."""
    folders, marked = {mark.folder for mark in layout.every}, {mark.xml.stem for mark in layout.every}
    every = {folder / name for folder in folders for names in _stems(folder).values() for name in names}
    taken = {image.file for images in found.values() for image in images}
    twins = {file.with_suffix("") for file in taken}  # an XML is one image's, whatever others are called like it
    if left := {path for path in every - taken if path.stem not in marked or path.with_suffix("") in twins}:
        first = min(left).relative_to(root)
        yield (
            f"{plural(len(left), 'image has', 'images have')} no XML, left out: such as {first}; one "
            "without objects needs one too"
        )


def _image_of(path: Path, document: Element, folder: Path, stems: dict[str, list[str]]) -> Path:
    """The image called as the XML is, or else as the XML says: files are renamed, and what is in them stays."""
    if document.name != "annotation":
        raise UserError(f", line {document.line}: it begins with <{document.name}>, VOC's with <annotation>")
    said, named = document.said("filename"), stems.get(path.stem, [])
    if len(named) == 1:
        return folder / named[0]
    if said and Path(said).name == said and is_image(said) and (folder / said).is_file():
        return folder / said
    if named:
        raise UserError(f": which image is it of: {', '.join(named)}?")
    raise UserError(f": there is no image {path.stem}.* in {folder.name}/, and no {said!r:.80}")


def _size_of(file: Path, document: Element) -> tuple[int, int]:
    """Height and width. UserError where the XML says another size."""
    try:
        width, height = read_size(file, file.name)
    except UnreadableSampleError as error:
        raise UserError(f": its image {error}") from error
    size = document.child("size")
    if size and (size.said("width"), size.said("height")) not in ((str(width), str(height)), ("0", "0"), ("", "")):
        said = f"{size.said('width')} x {size.said('height')}"
        raise UserError(f", line {size.line}: it says {said} pixels, {file.name} has {width} x {height} upright")
    return height, width


def _check_names(
    names: Sequence[str], classes: Sequence[str], found: dict[str, list[Labelled]], faults: Faults
) -> None:
    for name in (name for name in names if name not in classes):
        first = next(image for images in found.values() for image in images if name in {o.name for o in image.objects})
        with faults.of(f"class {name!r} of {first.name}"):
            raise UserError(f" is none of --classes {', '.join(classes)}.{nearest(name, classes)}")
    faults.settle()
