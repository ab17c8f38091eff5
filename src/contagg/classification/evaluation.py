"""Accuracy of a weights file on held-out images, and which classes it takes for which."""

import argparse
import dataclasses
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from contagg.checkpoints.locate import weights_in
from contagg.checkpoints.models import run_model
from contagg.checkpoints.weights import load_model
from contagg.classification.confusion import write_confusion
from contagg.classification.task import accuracies
from contagg.data.config import DataConfig
from contagg.data.datasets import match_classes
from contagg.data.fingerprint import which_were_in
from contagg.data.folders import Split
from contagg.data.loaders import evaluation_loader
from contagg.data.sampling import IGNORE_INDEX
from contagg.data.sources import has_splits, open_validation
from contagg.device import choose_device, require_finite
from contagg.errors import UserError, plural
from contagg.figures import percent
from contagg.training.building import Preprocessing, data_of_run, run_of
from contagg.training.checkpoint import data_of_states

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was found.

    Attributes:
        images: How many were counted.
        skipped: How many could not be read.
        scores: `accuracy` and, of many classes, `accuracy_top5`.
        confusion: (K, K) counts; row: the class it is, column: the class it was taken for.
        class_names: K, where they are known.
    """

    images: int
    skipped: int
    scores: dict[str, float]
    confusion: Tensor
    class_names: tuple[str, ...] = ()

    @property
    def class_accuracies(self) -> Tensor:
        """(K,), each class's share of right answers (recall); NaN for one without images."""
        return self.confusion.diagonal() / self.confusion.sum(1)

    @property
    def balanced_accuracy(self) -> float:
        """The mean over classes, which large classes do not decide; those without images do not count."""
        return self.class_accuracies.nanmean().item()

    def __str__(self) -> str:
        named = dict(self.scores)
        if len(set(self.confusion.sum(1).tolist())) > 1:
            named["balanced_accuracy"] = self.balanced_accuracy
        scores = ", ".join(f"{name.replace('_', ' ')} {percent(value, 2)}" for name, value in named.items())
        skipped = f", {plural(self.skipped, 'image')} could not be read" if self.skipped else ""
        return f"{scores} of {plural(self.images, 'image')}{skipped}"


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
        logits = run_model(model, images[counted].to(device)).float()
        require_finite({"what the network answers": logits}, "no score")
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
    path: Path,
    images: Any,
    class_names: Sequence[str],
    max_corrupt_fraction: float,
    *,
    batch_size: int,
    workers: int,
    device: torch.device,
) -> Evaluation:
    """Read a weights file back, as its user will, and evaluate it on images whose labels number `class_names`.

    Classes are matched by name; those that only one of the two has are told in a warning.

    Args:
        images: As `contagg.data.datasets` says.

    Raises:
        UserError: the two have no class in common.
    """
    model, metadata = load_model(path)
    classes = tuple(metadata.get("class_names", ()))
    matched, differing = match_classes(images, class_names, classes, "the data")
    if differing:
        logger.warning("%s: %s", path, differing)
    plain = Preprocessing.read(metadata, str(path)).evaluation()
    batches = evaluation_loader(matched, plain, batch_size, workers, max_corrupt_fraction=max_corrupt_fraction)
    return dataclasses.replace(evaluate(model, batches, len(classes), device), class_names=classes)


def validate(options: argparse.Namespace) -> None:
    """`contagg validate`: prints accuracies, writes the confusion matrix."""
    path = weights_in(options.checkpoint)
    device = choose_device(options.device)
    given = {key: getattr(options, key) for key in ("name", "root", "validation_split")}
    config = data_of_run(path, given)
    images, class_names = _held_out(path, config, options.root)
    found = evaluate_file(
        path,
        images,
        class_names,
        config.max_corrupt_fraction,
        batch_size=options.batch_size,
        workers=options.workers,
        device=device,
    )
    print(f"{path}: {found}")
    folder = Path(options.output) if options.output else run_of(path) / "figures"
    print(f"confusion matrix: {write_confusion(folder, found.confusion, found.class_names)}")


def _held_out(path: Path, config: DataConfig, moved: str | None) -> Split:
    """Images to judge a weights file by. Where they have no splits none that its run was trained on.

    Args:
        moved: data.root, where it is not the run's.

    Raises:
        UserError: all of them are, or a run's folder has no training state to tell by.
    """
    images, class_names = open_validation(config, alone=moved is not None)
    if has_splits(config):
        return images, class_names
    run, root = run_of(path), config.folder()
    trained_on = data_of_states(run / "checkpoints")
    if trained_on is None and moved and (run / "recipe.yaml").exists():
        raise UserError(
            f"which images in {root} the run was trained on cannot be told, as {run / 'checkpoints'} has no training "
            f"state: put those to judge by into {root / 'test'}"
        )
    if trained_on is None:
        if moved:
            logger.warning("%s: all %d images count, also where the network was trained on them", root, len(images))
        return images, class_names
    try:
        seen = which_were_in("training", trained_on, images.listing(), class_names)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"the training states in {run / 'checkpoints'} do not say which data they are of") from error
    if seen.all():
        raise UserError(f"the run was trained on all {plural(len(images), 'image')} in {root}: they show nothing")
    if seen.any():
        logger.warning("%s: left out are %d of %d images: the run was trained on them", root, seen.sum(), len(images))
    elif moved:  # a copy under other names would be as good as new to this
        logger.warning("%s: all %d images count, none has name, class and size of one trained on", root, len(images))
    return images.subset(np.flatnonzero(~seen)), class_names
