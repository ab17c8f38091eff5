"""A weights file against annotations: `contagg validate` for detectors."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import yaml

from contagg.data.coco.annotations import CocoAnnotations, read_annotations
from contagg.data.coco.dataset import CocoImages, evaluation_transform
from contagg.data.coco.loaders import evaluation_loader
from contagg.detection.evaluation import NAMES, Collected, Kind, Scores, add_batch, score
from contagg.detection.saved import Saved, check_categories, load_detector
from contagg.device import choose_device
from contagg.errors import UserError
from contagg.files import write_output
from contagg.training.run_folder import weights_in


@torch.inference_mode()
def collect(
    saved: Saved, annotations: CocoAnnotations, batch_size: int, workers: int, device: torch.device
) -> Collected:
    """What a detector finds in the images of `annotations`."""
    model = saved.model.to(device)
    loader = evaluation_loader(
        CocoImages(annotations, masks=False), evaluation_transform(saved.resizing), batch_size, workers
    )
    collected = Collected()
    ids = [category.id for category in saved.categories]
    batch: Any
    for batch in loader:
        images, targets = batch
        add_batch(collected, model([image.to(device) for image in images]), images, targets, ids)
    return collected


def evaluate(saved: Saved, annotations: CocoAnnotations, batch_size: int, workers: int, device: torch.device) -> Scores:
    """COCO's twelve numbers, of boxes and, where there are masks, of masks."""
    return score(annotations, collect(saved, annotations, batch_size, workers, device), kinds_of(saved))


def kinds_of(saved: Saved) -> list[Kind]:
    """What a detector is judged by."""
    return ["box", "mask"] if saved.model.masks else ["box"]


def validate(options: argparse.Namespace) -> None:
    """`contagg validate`: prints the numbers; with --output also writes them, and COCO's result files."""
    path = weights_in(options.checkpoint)
    device = choose_device(options.device)
    saved = load_detector(path)
    annotations = read_annotations(*_data(path, options), needs_masks=saved.model.masks)
    check_categories(saved.categories, annotations.categories, path)
    annotations.require_objects()
    collected = collect(saved, annotations, options.batch_size, options.workers, device)
    scores = score(annotations, collected, kinds_of(saved))
    print(f"{path} on {len(annotations.images)} images of {annotations.path}")
    for name in NAMES:
        print("  ".join([f"{name:10}", *(f"{kind} {scores[f'{kind}_{name}']:.3f}" for kind in kinds_of(saved))]))
    if options.output:
        folder = Path(options.output)
        write_output(folder / "scores.json", json.dumps(scores, indent=2).encode())
        for kind in kinds_of(saved):
            write_output(folder / f"{kind}_results.json", json.dumps(collected.of_kind(kind)).encode())
        print(f"written to {folder}")


def _data(path: Path, options: argparse.Namespace) -> tuple[Path, Path]:
    """The JSON and the folder of images: the run's validation split, or what the command line says."""
    recipe = path.absolute().parents[1] / "recipe.yaml"
    known = yaml.safe_load(recipe.read_text())["data"] if recipe.is_file() else {}
    given = {"root": options.root, "validation_annotations": options.annotations, "validation_images": options.images}
    data = known | {key: value for key, value in given.items() if value is not None}
    for key, flag in (("validation_annotations", "annotations"), ("validation_images", "images")):
        if key not in data:
            raise UserError(f"{recipe} is not there, so --data.{flag} must say which data to use")
    root = Path(data.get("root", "."))
    return root / data["validation_annotations"], root / data["validation_images"]
