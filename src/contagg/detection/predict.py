"""`contagg predict` for detectors: what is found, as lines, CSV or JSON; pictures, and COCO's result files."""

import argparse
import csv
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from contagg.checkpoints.locate import weights_in
from contagg.data.coco.dataset import as_tensor, evaluation_transform
from contagg.data.decode import UnreadableSampleError, read_image
from contagg.data.folders import find_images
from contagg.detection.batching import Detections
from contagg.detection.drawing import save_drawing
from contagg.detection.evaluation import Kind, Result, in_file_pixels, kinds_of, results
from contagg.detection.numbering import Numbering, numbering_of
from contagg.detection.saved import Saved, load_detector
from contagg.device import choose_device
from contagg.errors import UserError, plural, printable, shortened
from contagg.figures import percent
from contagg.files import write_output

logger = logging.getLogger(__name__)

_COLUMNS = ("class", "score", "left", "top", "width", "height")
_TOLD = 5


@torch.inference_mode()
def detect(saved: Saved, path: Path, device: torch.device) -> tuple[np.ndarray, Detections]:
    """An image file, uint8 (H, W, 3), and what is found in it, in its pixels. UnreadableSampleError if broken."""
    image = as_tensor(read_image(path, str(path), bit_depth=saved.bit_depth))
    try:
        prepared, _ = evaluation_transform(saved.resizing)(image, {})
    except UserError as error:
        raise UnreadableSampleError(str(path), str(error)) from error
    found = saved.model([prepared.to(device)])[0]
    return np.asarray(image.permute(1, 2, 0)), in_file_pixels(found, prepared.shape[1:], image.shape[1:])


def predict(options: argparse.Namespace) -> None:
    """Say what is found in each image, in the form that --output names; a broken image is named and left out.

    As lines it also writes into --folder one picture per image, COCO's results of boxes and of masks each in a file,
    since its tools take the sizes of both from the boxes where they stand together; and images.json, the numbers.

    Raises:
        UserError: none of the images can be read; or --annotations does not know one.
    """
    if not 0 <= options.score <= 1:
        raise UserError(f"--score must lie between 0 and 1, not {options.score}")
    if options.annotations and options.output != "table":
        raise UserError(f"--annotations is for COCO's files, which --output {options.output} does not write")
    paths = find_images(options.images)
    device = choose_device(options.device)
    saved = load_detector(weights_in(options.checkpoint))
    saved.model.to(device)
    rows = _detected(saved, paths, device)
    if options.output == "table":
        ids = Numbering({}, [category.id for category in saved.categories])
        if options.annotations:
            ids = numbering_of(Path(options.annotations), paths, saved.categories)
        _write_all(options, saved, rows, ids)
    else:
        {"csv": _print_csv, "json": _print_json}[options.output](options, saved, rows)


def _detected(saved: Saved, paths: list[Path], device: torch.device) -> Iterator[tuple[Path, np.ndarray, Detections]]:
    """Of each image that can be read."""
    read = 0
    for path in paths:
        try:
            image, found = detect(saved, path, device)
        except UnreadableSampleError as error:
            logger.warning("left out, cannot be read: %s", printable(str(error)))
            continue
        read += 1
        yield path, image, found
    if not read:
        raise UserError(f"none of {plural(len(paths), 'image')} can be read")


def _write_all(
    options: argparse.Namespace, saved: Saved, rows: Iterator[tuple[Path, np.ndarray, Detections]], ids: Numbering
) -> None:
    """Images that `ids` does not know are numbered as they come."""
    names = [category.name for category in saved.categories]
    folder = Path(options.folder)
    entries: dict[Kind, list[Result]] = {kind: [] for kind in kinds_of(saved.model)}
    listed, pictures = [], set()
    for number, (path, image, found) in enumerate(rows):
        kept = _at_least(found, options.score)
        image_id = ids.images.get(path, number)
        for kind, some in results(kept, image_id, image.shape[:2], ids.categories).items():
            entries[kind] += some
        listed.append({"id": image_id, "file_name": str(path), "height": image.shape[0], "width": image.shape[1]})
        picture = folder / f"{number:03d}_{shortened(printable(path.stem), 60)}.png"
        pictures.add(picture.name)
        save_drawing(picture, [image], [found], names, options.score)
        print(printable(f"{path}: {_summary(found, options.score, names)} -> {picture}"), flush=True)
    for kind, some in entries.items():
        write_output(folder / f"{kind}_results.json", json.dumps(some).encode())
    categories = [{"id": number, "name": name} for number, name in zip(ids.categories, names, strict=True)]
    write_output(folder / "images.json", json.dumps({"images": listed, "categories": categories}).encode())
    files = ", ".join(str(folder / f"{kind}_results.json") for kind in entries)
    print(f"{plural(len(entries['box']), 'detection')} in COCO's form: {files}; their images: {folder / 'images.json'}")
    _tell_of_others(folder, {*pictures, *(f"{kind}_results.json" for kind in entries)})


def _tell_of_others(folder: Path, written: set[str]) -> None:
    """Name what an earlier call left in the folder, which images.json knows nothing of: it is a person's to remove."""
    own = {f"{kind}_results.json" for kind in get_args(Kind)}
    others = {path.name for path in folder.glob("[0-9][0-9][0-9]*_*.png")} | {n for n in own if (folder / n).is_file()}
    if left := sorted(others - written):
        logger.warning(
            "%s in %s of an earlier call, such as %s: images.json and the new results know nothing of that; "
            "remove it, or give another --folder",
            plural(len(left), "file is", "files are"),
            folder,
            printable(left[0]),
        )


def _print_csv(options: argparse.Namespace, saved: Saved, rows: Iterator[tuple[Path, np.ndarray, Detections]]) -> None:
    """A line for each object; an image in which none is found has one with nothing but its name."""
    writer = csv.DictWriter(sys.stdout, ("image", *_COLUMNS))
    writer.writeheader()
    for path, _, found in rows:
        name = {"image": printable(str(path))}
        writer.writerows(name | entry for entry in _entries(_at_least(found, options.score), saved) or [{}])


def _print_json(options: argparse.Namespace, saved: Saved, rows: Iterator[tuple[Path, np.ndarray, Detections]]) -> None:
    images = [
        {"image": printable(str(path)), "objects": _entries(_at_least(found, options.score), saved)}
        for path, _, found in rows
    ]
    print(json.dumps(images, indent=2, ensure_ascii=False))


def _entries(found: Detections, saved: Saved) -> list[dict[str, Any]]:
    """What is found in an image, as `_COLUMNS` name it; lengths in pixels."""
    return [
        dict(zip(_COLUMNS, (saved.categories[label].name, round(score, 6), *_rounded(box)), strict=True))
        for label, score, box in zip(*(found[key].tolist() for key in ("labels", "scores", "boxes")), strict=True)
    ]


def _rounded(box: list[float]) -> list[float]:
    left, top, right, bottom = box
    return [round(value, 2) for value in (left, top, right - left, bottom - top)]


def _at_least(found: Detections, score: float) -> Detections:
    return {key: value[found["scores"] >= score] for key, value in found.items()}


def _summary(found: Detections, least: float, names: list[str]) -> str:
    captions = [
        f"{names[label]} {percent(value, 0)}"
        for label, value in zip(found["labels"].tolist(), found["scores"].tolist(), strict=True)
    ]
    kept = int((found["scores"] >= least).sum())
    if not kept:
        return f"nothing at {least:g} or more" + (f"; the best is {captions[0]}" if captions else "")
    return ", ".join(captions[: min(kept, _TOLD)]) + (f" and {kept - _TOLD} more" if kept > _TOLD else "")
