"""`contagg data from-voc`, `from-yolo` and `from-coco`: a COCO folder that `fit`, `check` and `validate` take."""

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from contagg.data.coco.exported import CocoReader
from contagg.data.coco.faults import Faults
from contagg.data.coco.labelled import Labelled, Reading, require_new, write
from contagg.data.coco.voc import VocReader
from contagg.data.coco.yolo import YoloReader
from contagg.errors import UserError, plural, printable

SHOWN = 10
"""Classes whose objects are counted on the terminal."""


def from_voc(options: argparse.Namespace) -> None:
    """Read XMLs, and write what they say."""
    root, classes = _root(options), tuple(options.classes or ())
    if len(set(classes)) < len(classes):
        raise UserError(f"--classes {' '.join(classes)}: a name stands twice")
    reader = VocReader(root, Faults(root), options.clip_boxes, options.from_zero)
    _write(reader.read(classes, options.hold_out, options.split == "hash"), options.output)


def from_yolo(options: argparse.Namespace) -> None:
    """Read texts, and write what they say."""
    root = _root(options)
    _write(YoloReader(root, Faults(root), options.clip_boxes).read(options.hold_out), options.output)


def from_coco(options: argparse.Namespace) -> None:
    """Read JSONs of COCO's form, and write what they say as `fit` takes it."""
    root = _root(options)
    _write(CocoReader(root, Faults(root), options.clip_boxes).read(options.hold_out), options.output)


def _root(options: argparse.Namespace) -> Path:
    if options.hold_out < 2:
        raise UserError(f"--hold-out {options.hold_out}: of 2 images or more one is held out")
    require_new(options.output)
    root = Path(options.folder).expanduser()
    if options.output.resolve().is_relative_to(root.resolve()):
        raise UserError(
            f"--output {options.output} lies in {root}, which is read: the next call would take what this one writes "
            "for its images; give a folder outside"
        )
    return root


def _write(reading: Reading, output: Path) -> None:
    _require_pixels(reading)
    linked = write(reading.splits, reading.classes, output)
    for split, images in reading.splits.items():
        counts = Counter({name: 0 for name in reading.classes})
        counts.update(found.name for image in images for found in image.objects)
        listed = ", ".join(f"{name} {count:,}" for name, count in list(counts.items())[:SHOWN])
        more = f" and {plural(len(counts) - SHOWN, 'more class', 'more classes')}" if len(counts) > SHOWN else ""
        print(printable(f"{split}: {plural(len(images), 'image')}, {plural(counts.total(), 'object')}: {listed}{more}"))
    for note in (*reading.notes, *_against_learning(reading.splits)):
        print(f"note: {note}")
    how = "linked: they take no space, and are the same files" if linked else "copied"
    print(f"written to {output}; images are {how}\n\nnext  contagg data check {output}")
    print(f"      contagg fit -c own-objects --data.root {output}")


def _require_pixels(reading: Reading) -> None:
    """UserError where all boxes lie within the first pixel: `fit` would refuse them."""
    boxes = [found.box for images in reading.splits.values() for image in images for found in image.objects]
    if boxes and max(map(max, boxes)) <= 1:
        raise UserError(
            "no box reaches beyond the first pixel: boxes of COCO and VOC are in pixels, not in fractions of the image"
        )


def _against_learning(splits: Mapping[str, Sequence[Labelled]]) -> Iterator[str]:
    """What a person should change before training."""
    for split in ("train", "val"):
        if not any(image.objects for image in splits[split]):
            yield f"no image of {split} has an object, and fit refuses that: another --hold-out, or splits of your own"
    both = {image.file.resolve() for image in splits["train"]} & {image.file.resolve() for image in splits["val"]}
    if both:
        yield f"{plural(len(both), 'image is', 'images are')} in both train and val, which is then no test of anything"
