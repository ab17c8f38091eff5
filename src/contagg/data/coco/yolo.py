"""Boxes and polygons as YOLO has them: a text an image, a line an object, in fractions of the image. Needs no torch.

images/train/a.jpg             or train/images/a.jpg; `yolo_layout` says how that is known
labels/train/a.txt             or train/labels/a.txt, or beside the image
    0 0.5 0.5 0.2 0.1          class, centre x, centre y, width, height
    0 0.1 0.1 0.3 0.1 0.2 0.3  class, x and y of each corner of a polygon
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from contagg.data.coco.faults import Faults
from contagg.data.coco.labelled import (
    Box,
    Labelled,
    Object,
    Reading,
    check_polygon,
    clipped,
    read_lines,
    with_validation,
)
from contagg.data.coco.yolo_layout import read_layout
from contagg.data.decode import UnreadableSampleError, read_size
from contagg.errors import UserError, plural, shortened
from contagg.output import counted

_NUMBER = re.compile(r"[-+]?(\d{1,12}\.?\d{0,30}|\.\d{1,30})([eE][-+]?\d{1,2})?")
_FARTHEST = 2.0  # a box may leave its image a little; a whole image's width beyond it are pixels, or a typing error


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
    _images_of: dict[Path, Path] = field(default_factory=dict)
    _keypoints: int = 0

    def read(self, one_in: int = 5) -> Reading:
        """All images and objects; an image without a text has none.

        Args:
            one_in: Of so many training images one is for validation where none are named.

        Raises:
            UserError: there is nothing of the kind, or nothing in it.
        """
        layout = read_layout(self.root, self.faults)
        classes, self._keypoints = layout.classes(), layout.keypoints()
        listed = layout.splits()
        every = [(split, file, name) for split, images in listed.items() for file, name in images]
        found: dict[str, list[Labelled]] = {split: [] for split in listed}
        for split, file, name in counted(every, "images looked at"):
            with self.faults.of(layout.shown(file)):
                found[split].append(self._image(file, name, classes))
        self.faults.settle()
        if not any(image.objects for image in found["train"]):
            raise UserError(
                f"{self.root}: none of {plural(len(found['train']), 'training image')} has a label beside labels/"
            )
        return Reading(classes, with_validation(found, one_in), [*layout.notes, *self._notes()])

    def _image(self, file: Path, name: str, classes: Sequence[str]) -> Labelled:
        try:
            width, height = read_size(file, file.name)
        except UnreadableSampleError as error:
            raise UserError(f": {error.reason}") from error
        labels = labels_of(self.root, file)
        self._seen["without"] += labels is None
        if labels and (other := self._images_of.setdefault(labels, file)) != file:
            text, other = (path.relative_to(self.root) for path in (labels, other))
            raise UserError(f": {text} is its text and that of {other}: which image is it of?")
        objects: dict[str, Object] = {}
        for number, line in enumerate(read_lines(labels) if labels else (), 1):
            words = line.split()
            if words and labels:
                with self.faults.of(f"{labels.relative_to(self.root)}, line {number}"):
                    self._seen["twice"] += " ".join(words) in objects
                    found = self._object(words, (height, width), classes)
                    self._seen["polygons" if found.outline else "boxes"] += 1
                    objects[" ".join(words)] = found
        return Labelled(file, name, (height, width), list(objects.values()))

    def _object(self, words: list[str], size: tuple[int, int], classes: Sequence[str]) -> Object:
        wrong = next((word for word in words if not _NUMBER.fullmatch(word)), None)
        if wrong is not None:
            raise UserError(f": {shortened(wrong, 40)!r} is no number")
        number, *values = map(float, words)
        if number not in range(len(classes)):
            raise UserError(f": class {words[0]} is none of the {len(classes)} that are named, from 0")
        name = classes[int(number)]
        if self._keypoints and len(values) == 4 + self._keypoints:
            self._seen["skeletons"] += 1
            del values[4:]
        if pixels := next((word for word, value in zip(words[1:], values, strict=False) if abs(value) > _FARTHEST), ""):
            raise UserError(f": {pixels} is no fraction of the image: YOLO counts from 0 to 1, not in pixels")
        if len(values) == 4:
            return Object(name, clipped(_corners(values, size), size, self.clip_boxes))
        if len(values) < 6 or len(values) % 2:
            raise UserError(
                f": {plural(len(words), 'value')}; a box has 5, a polygon of n corners 1 + 2 n, and 3 or more corners"
            )
        xs, ys = [x * size[1] for x in values[::2]], [y * size[0] for y in values[1::2]]
        box = clipped((min(xs), min(ys), max(xs), max(ys)), size, self.clip_boxes)
        corners = ((min(max(x, 0), size[1]), min(max(y, 0), size[0])) for x, y in zip(xs, ys, strict=True))
        polygon = [round(value, 3) for corner in corners for value in corner]
        check_polygon(polygon, size)
        return Object(name, box, [polygon])

    def _notes(self) -> Iterator[str]:
        if self._seen["without"]:
            yield (
                f"{plural(self._seen['without'], 'image has', 'images have')} no text in labels/: taken "
                "for images without objects"
            )
        if self._seen["twice"]:
            yield f"{plural(self._seen['twice'], 'line stands', 'lines stand')} twice in a text: taken once"
        if self._seen["skeletons"]:
            yield (
                f"{plural(self._seen['skeletons'], 'object has', 'objects have')} points of a skeleton: "
                "the boxes alone were taken"
            )
        if self._seen["boxes"] and self._seen["polygons"]:
            yield (
                f"{plural(self._seen['polygons'], 'object is a polygon', 'objects are polygons')} and "
                f"{plural(self._seen['boxes'], 'box', 'boxes')}: Mask R-CNN needs "
                "polygons of all"
            )


def labels_of(root: Path, image: Path) -> Path | None:
    """The text of an image of a folder: in labels/ where its path below has images/, or beside it; None without one."""
    beside = image.with_suffix(".txt")
    parts = beside.relative_to(root).parts
    places = [beside]
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[:-1][::-1].index("images")
        places.insert(0, root.joinpath(*parts[:last], "labels", *parts[last + 1 :]))
    return next((place for place in places if place.is_file()), None)


def _corners(values: Sequence[float], size: tuple[int, int]) -> Box:
    x, y, width, height = values
    half = width / 2, height / 2
    rounded = [round(side, 9) for side in (x - half[0], y - half[1], x + half[0], y + half[1])]
    return rounded[0] * size[1], rounded[1] * size[0], rounded[2] * size[1], rounded[3] * size[0]
