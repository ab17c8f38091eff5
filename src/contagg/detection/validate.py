"""A weights file against annotations: `contagg validate` for detectors."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from contagg.checkpoints.locate import weights_in
from contagg.data.coco.config import CocoDataConfig
from contagg.data.coco.dataset import CocoImages, evaluation_transform, open_split
from contagg.data.coco.loaders import evaluation_loader
from contagg.detection.evaluation import NAMES, Collected, add_batch, kinds_of, score
from contagg.detection.saved import Saved, check_categories, load_detector
from contagg.device import choose_device
from contagg.errors import UserError, plural
from contagg.files import write_output
from contagg.yaml_file import read_section


@torch.inference_mode()
def collect(
    saved: Saved,
    images: CocoImages,
    batch_size: int,
    workers: int,
    device: torch.device,
    max_corrupt_fraction: float = 0.001,
) -> Collected:
    """What a detector finds in images."""
    model = saved.model.to(device)
    plain = evaluation_transform(saved.resizing)
    loader = evaluation_loader(images, plain, batch_size, workers, max_corrupt_fraction=max_corrupt_fraction)
    collected = Collected()
    ids = [category.id for category in saved.categories]
    batch: Any
    for batch in loader:
        pictures, targets = batch
        if pictures:
            add_batch(collected, model([picture.to(device) for picture in pictures]), pictures, targets, ids)
    collected.unreadable |= set(loader.unreadable)
    return collected


def validate(options: argparse.Namespace) -> None:
    """`contagg validate`: prints the numbers; with --output also writes them, and COCO's result files."""
    path = weights_in(options.checkpoint)
    device = choose_device(options.device)
    saved = load_detector(path)
    data = _data(path, options, saved.bit_depth)
    images = open_split(data, "validation", saved.model.masks)
    annotations = images.annotations
    check_categories(saved.categories, annotations.categories, path)
    annotations.require_objects()
    batch = (options.batch_size, options.workers, device)
    collected = collect(saved, images, *batch, max_corrupt_fraction=data.max_corrupt_fraction)
    kinds = kinds_of(saved.model)
    scores = score(annotations, collected, kinds)
    skipped = f"; {len(collected.unreadable)} more could not be read" if collected.unreadable else ""
    print(
        f"{path} on {plural(len(annotations.images) - len(collected.unreadable), 'image')} of "
        f"{annotations.path}{skipped}"
    )
    rows = [*NAMES, *(f"ap/{name}" for name in annotations.unique_names)]
    width = max(map(len, rows))
    for name in rows:
        print("  ".join([f"{name:{width}}", *(f"{kind} {scores[f'{kind}_{name}']:.3f}" for kind in kinds)]))
    if options.output:
        folder = Path(options.output)
        write_output(folder / "scores.json", json.dumps(scores, indent=2).encode())
        for kind in kinds:
            write_output(folder / f"{kind}_results.json", json.dumps(collected.of_kind(kind)).encode())
        print(f"written to {folder}")


def _data(path: Path, options: argparse.Namespace, bit_depth: int | None) -> CocoDataConfig:
    """The run's data, with what the command line says instead; `bit_depth` is what the weights file says."""
    recipe = path.absolute().parents[1] / "recipe.yaml"
    known = read_section(recipe, "data") or {"root": ".", "bit_depth": bit_depth}
    given = {"root": options.root, "validation_annotations": options.annotations, "validation_images": options.images}
    data = known | {key: value for key, value in given.items() if value is not None}
    for key, flag in (("validation_annotations", "annotations"), ("validation_images", "images")):
        if key not in data:
            raise UserError(f"{recipe} is not there, so --data.{flag} must say which data to use")
    return CocoDataConfig(**data)
