"""The likeliest classes of image files."""

import argparse
import csv
import json
import logging
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from contagg.checkpoints.locate import weights_in
from contagg.checkpoints.models import run_model
from contagg.checkpoints.weights import load_model
from contagg.data.decode import UnreadableSampleError, read_image
from contagg.data.folders import find_images
from contagg.device import choose_device, require_finite
from contagg.errors import UserError, plural, printable
from contagg.figures import percent
from contagg.training.building import Preprocessing, Transform

logger = logging.getLogger(__name__)

Guess = tuple[str, float]
"""A class and its probability."""


class ImageFiles(Dataset[tuple[int, torch.Tensor | None]]):
    """(number, prepared image (C, H, W)) of each file; None for one that cannot be read, with a warning."""

    def __init__(self, paths: list[Path], preprocessing: Preprocessing) -> None:
        self.paths, self.bit_depth = paths, preprocessing.bit_depth
        self.transform: Transform = preprocessing.evaluation()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor | None]:
        try:
            name = printable(str(self.paths[index]))
            return index, self.transform(read_image(self.paths[index], name, bit_depth=self.bit_depth))
        except UnreadableSampleError as error:
            logger.warning("left out, cannot be read: %s", error)
            return index, None


@torch.inference_mode()
def guesses(
    model: nn.Module, batches: Iterable[tuple[list[int], torch.Tensor]], classes: list[str], top: int
) -> Iterator[tuple[int, list[Guess]]]:
    """(number of the image, its `top` likeliest classes) for batches of (numbers, images (B, C, H, W))."""
    for numbers, images in batches:
        if not numbers:
            continue
        logits = run_model(model, images).float()
        require_finite({"what the network answers": logits}, "no prediction")
        probabilities = logits.softmax(1)
        values, indices = probabilities.topk(min(top, len(classes)), dim=1)
        for number, row, which in zip(numbers, values.tolist(), indices.tolist(), strict=True):
            yield number, [(classes[index], value) for index, value in zip(which, row, strict=True)]


def predict(options: argparse.Namespace) -> None:
    """`contagg predict`. UserError if no image could be read."""
    paths = find_images(options.images)
    device = choose_device(options.device)
    model, metadata = load_model(weights_in(options.checkpoint))
    if not model.num_classes:
        raise UserError(f"{options.checkpoint} holds a network without a classifier: it tells no classes apart")
    classes = metadata.get("class_names") or [str(number) for number in range(int(model.num_classes))]  # type: ignore[arg-type]
    preprocessing = Preprocessing.read(metadata, options.checkpoint)
    loader = DataLoader(
        ImageFiles(paths, preprocessing),
        batch_size=options.batch_size,
        num_workers=options.workers,
        collate_fn=_readable,
    )
    on_device = ((numbers, images.to(device)) for numbers, images in loader)
    found = {
        printable(str(paths[number])): row
        for number, row in guesses(model.to(device), on_device, classes, options.top_k)
    }
    if not found:
        raise UserError(f"none of {plural(len(paths), 'image')} can be read")
    {"table": _print_table, "csv": _print_csv, "json": _print_json}[options.output](found)


def _readable(samples: list[tuple[int, torch.Tensor | None]]) -> tuple[list[int], torch.Tensor]:
    kept = [(number, image) for number, image in samples if image is not None]
    return [number for number, _ in kept], torch.stack([image for _, image in kept]) if kept else torch.empty(0)


def _print_table(found: dict[str, list[Guess]]) -> None:
    width = max(map(len, found))
    for path, row in found.items():
        print(f"{path:{width}}  " + "  ".join(f"{name} {percent(value)}" for name, value in row))


def _print_csv(found: dict[str, list[Guess]]) -> None:
    writer = csv.writer(sys.stdout)
    writer.writerow(["image", "rank", "class", "probability"])
    for path, row in found.items():
        writer.writerows([path, rank, name, f"{value:.6g}"] for rank, (name, value) in enumerate(row, start=1))


def _print_json(found: dict[str, list[Guess]]) -> None:
    rows: list[dict[str, Any]] = [
        {"image": path, "classes": [{"class": name, "probability": value} for name, value in row]}
        for path, row in found.items()
    ]
    print(json.dumps(rows, indent=2, ensure_ascii=False))
