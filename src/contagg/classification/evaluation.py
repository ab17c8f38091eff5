"""Accuracy of a weights file on held-out images, and which classes it takes for which."""

import argparse
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from contagg.checkpoints.weights import load_model
from contagg.classification.confusion import write_confusion
from contagg.classification.task import accuracies
from contagg.data.config import DataConfig
from contagg.data.loaders import evaluation_loader
from contagg.data.sampling import IGNORE_INDEX
from contagg.data.sources import ImageData, open_data
from contagg.device import choose_device
from contagg.errors import UserError
from contagg.figures import percent
from contagg.training.building import Preprocessing
from contagg.training.run_folder import weights_in
from contagg.yaml_file import read_section


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was found.

    Attributes:
        images: How many were counted.
        skipped: How many could not be read.
        scores: `accuracy` and, of many classes, `accuracy_top5`.
        confusion: (K, K) counts; row: the class it is, column: the class it was taken for.
    """

    images: int
    skipped: int
    scores: dict[str, float]
    confusion: Tensor

    def __str__(self) -> str:
        scores = ", ".join(f"{name.replace('_', ' ')} {percent(value, 2)}" for name, value in self.scores.items())
        skipped = f", {self.skipped} images could not be read" if self.skipped else ""
        return f"{scores} of {self.images} images{skipped}"


@torch.inference_mode()
def evaluate(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], num_classes: int, device: torch.device
) -> Evaluation:
    """Run a model over (images (B, C, H, W), targets (B,)); targets that are IGNORE_INDEX do not count."""
    model = model.to(device).eval()
    metrics = {name: metric.to(device) for name, metric in accuracies(num_classes).items()}
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.long)
    for images, targets in batches:
        counted = targets != IGNORE_INDEX
        if not counted.any():
            continue
        logits = model(images[counted].to(device)).float()
        targets = targets[counted]
        for metric in metrics.values():
            metric.update(logits, targets.to(device))
        pairs = targets * num_classes + logits.argmax(1).cpu()
        confusion += torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)
    return Evaluation(
        images=int(confusion.sum()),
        skipped=len(getattr(batches, "unreadable", [])),
        scores={name: metric.compute().item() for name, metric in metrics.items()},
        confusion=confusion,
    )


def evaluate_file(
    path: Path, data: ImageData, config: DataConfig, *, batch_size: int, workers: int, device: torch.device
) -> Evaluation:
    """Read a weights file back, as its user will, and evaluate it. UserError if its classes are not the data's."""
    model, metadata = load_model(path)
    classes = tuple(metadata.get("class_names", ()))
    if classes != data.class_names:
        raise UserError(
            f"{path} tells {len(classes)} classes apart ({', '.join(classes[:3])} ...), the data have "
            f"{len(data.class_names)} ({', '.join(data.class_names[:3])} ...)"
        )
    batches = evaluation_loader(
        data.validation,
        Preprocessing.read(metadata, str(path)).evaluation(),
        batch_size,
        workers,
        max_corrupt_fraction=config.max_corrupt_fraction,
    )
    return evaluate(model, batches, len(classes), device)


def validate(options: argparse.Namespace) -> None:
    """`contagg validate`: prints accuracies, writes the confusion matrix."""
    path = weights_in(options.checkpoint)
    if not path.is_file():
        raise UserError(f"no weights at {str(path)!r}; a run folder or a weights file of a run was expected there")
    device = choose_device(options.device)
    config = data_config(path, options)
    data = open_data(config)
    found = evaluate_file(path, data, config, batch_size=options.batch_size, workers=options.workers, device=device)
    print(f"{path}: {found}")
    folder = Path(options.output) if options.output else _run_of(path) / "figures"
    print(f"confusion matrix: {write_confusion(folder, found.confusion, data.class_names)}")


def _run_of(path: Path) -> Path:
    return path.absolute().parents[1]


def data_config(path: Path, options: argparse.Namespace) -> DataConfig:
    """The run's data, with what the command line says instead."""
    given: dict[str, Any] = {
        key: value for key in ("name", "root", "validation_split") if (value := getattr(options, key)) is not None
    }
    recipe = _run_of(path) / "recipe.yaml"
    known = read_section(recipe, "data")
    if not known and "name" not in given:
        raise UserError(f"{recipe} is not there, so --data.name and --data.root must say which data to use")
    return DataConfig(**(known | given))
