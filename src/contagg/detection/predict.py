"""`contagg predict` for detectors: COCO's result JSON, and pictures of what was found."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from contagg.data.coco.dataset import evaluation_transform, read_image
from contagg.data.folders import find_images
from contagg.detection.batching import Detections
from contagg.detection.drawing import save_drawing
from contagg.detection.evaluation import in_file_pixels, results
from contagg.detection.saved import Saved, load_detector
from contagg.device import choose_device
from contagg.errors import UserError
from contagg.files import write_output
from contagg.training.run_folder import weights_in


@torch.inference_mode()
def detect(saved: Saved, path: Path, device: torch.device) -> tuple[np.ndarray, Detections]:
    """An image file, uint8 (H, W, 3), and what is found in it, in its pixels."""
    image = read_image(path)
    try:
        prepared, _ = evaluation_transform(saved.resizing)(image, {})
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    found = saved.model([torch.as_tensor(prepared).to(device)])[0]
    return np.asarray(image.permute(1, 2, 0)), in_file_pixels(found, prepared.shape[1:], image.shape[1:])


def predict(options: argparse.Namespace) -> None:
    """Write OUTPUT/results.json and a picture an image. Image ids are the places in `images`, which it also lists."""
    if not 0 <= options.score <= 1:
        raise UserError(f"--score must lie between 0 and 1, not {options.score}")
    paths = find_images(options.images)
    device = choose_device(options.device)
    saved = load_detector(weights_in(options.checkpoint))
    saved.model.to(device)
    names, ids = ([getattr(category, key) for category in saved.categories] for key in ("name", "id"))
    folder = Path(options.output)
    entries: list[dict[str, Any]] = []
    listed = []
    for number, path in enumerate(paths):
        image, found = detect(saved, path, device)
        kept = {key: value[found["scores"] >= options.score] for key, value in found.items()}
        of_kind = results(kept, number, image.shape[:2], ids)
        masks = of_kind.get("mask", [{}] * len(of_kind["box"]))
        entries += [box | mask for box, mask in zip(of_kind["box"], masks, strict=True)]
        listed.append({"id": number, "file_name": str(path), "height": image.shape[0], "width": image.shape[1]})
        picture = folder / f"{number:03d}_{path.stem}.png"
        save_drawing(picture, [image], [found], names, options.score)
        print(f"{path}: {_summary(kept, names)} -> {picture}", flush=True)
    write_output(folder / "results.json", json.dumps(entries).encode())
    write_output(folder / "images.json", json.dumps({"images": listed, "categories": [
        {"id": category.id, "name": category.name} for category in saved.categories
    ]}).encode())  # fmt: skip
    print(
        f"{len(entries)} detections in COCO's form: {folder / 'results.json'}; their images: {folder / 'images.json'}"
    )


def _summary(found: Detections, names: list[str]) -> str:
    pairs = zip(found["labels"].tolist(), found["scores"].tolist(), strict=True)
    shown = [f"{names[label]} {100 * value:.0f} %" for label, value in pairs]
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "") or "nothing"
