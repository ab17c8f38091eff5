"""Trains what a detection recipe describes."""

import contextlib
import json
from functools import partial
from pathlib import Path

import numpy as np
import torch

from contagg.data.coco.annotations import CocoAnnotations, differing
from contagg.data.coco.config import CocoDataConfig
from contagg.data.coco.dataset import CocoImages, evaluation_transform, open_split, training_transform
from contagg.data.coco.loaders import evaluation_loader, train_loader
from contagg.data.decode import UnreadableSampleError
from contagg.data.fingerprint import Fingerprint
from contagg.data.sampling import require_batch
from contagg.detection.batching import DIVISOR, Detections
from contagg.detection.config import DetectionRecipe
from contagg.detection.detectors import build_detector, features_of
from contagg.detection.detr.config import SET_DETECTORS
from contagg.detection.drawing import save_drawing
from contagg.detection.evaluation import in_file_pixels, kinds_of, score
from contagg.detection.initial import init_detector
from contagg.detection.saved import Saved, describe, load_detector
from contagg.detection.task import Detection
from contagg.detection.validate import collect
from contagg.device import choose_device
from contagg.errors import UserError, plural
from contagg.figures import save_figure
from contagg.files import write_output
from contagg.training.curves import run_figure
from contagg.training.engine import Job, make_run
from contagg.training.rows import read_metrics
from contagg.training.run_folder import RunFolder, is_first_process, metrics_told

_SHOWN = ("box_ap50", "mask_ap50", "box_ap", "mask_ap", "train_loss", "learning_rate")


def fit(recipe: DetectionRecipe) -> None:
    """`contagg fit` for detection: trains, draws, reads the best weights back, says where all is."""
    make_run(recipe, open_images, make_job, report)


def open_images(recipe: DetectionRecipe) -> tuple[CocoImages, CocoImages]:
    """Training and validation images, with the masks of their objects where they are learnt. See `open_splits`."""
    return open_splits(recipe.data, masks=recipe.model.detector == "mask_rcnn")


def open_splits(data: CocoDataConfig, masks: bool) -> tuple[CocoImages, CocoImages]:
    """Training and validation images; says so where images are in both.

    Raises:
        UserError: their categories differ, there is nothing to find, or boxes are fractions of their images.
    """
    splits = open_split(data, "train", masks), open_split(data, "validation", masks)
    training, validation = (split.annotations for split in splits)
    if found := differing(training.categories, ("training", "validation"), validation.categories):
        raise UserError(f"the categories of {training.path} and {validation.path} differ: {found}")
    for annotations in (training, validation):
        annotations.require_objects()
    learnt = training.files()
    shared = sum(file in learnt for file in validation.files())
    if shared and is_first_process():
        count = len(validation.images)
        print(
            f"warning: {shared} of {plural(count, 'validation image')} are training images: scores say less of new ones"
        )
    return splits


def make_job(recipe: DetectionRecipe, splits: tuple[CocoImages, CocoImages]) -> Job:
    """What the engine trains. UserError for a backbone or weights that do not fit, or fewer images than a batch."""
    training, validation = splits
    optimization, run = recipe.optimization, recipe.run
    require_batch(len(training), optimization.batch_size, run.world_size)
    model = build_detector(recipe.model, len(training.annotations.categories))
    if recipe.model.init_weights:
        message = init_detector(
            model,
            features_of(model),
            recipe.model.init_weights,
            ema=recipe.model.init_ema,
            class_names=[category.name for category in training.annotations.categories],
        )
        if is_first_process():
            print(message, flush=True)
    if recipe.model.detector in SET_DETECTORS:
        check_objects(training.annotations, recipe.model.detr.queries)
    varied, plain = training_transform(recipe.augmentation), evaluation_transform(recipe.augmentation)
    size, workers, corrupt = optimization.batch_size, run.workers, recipe.data.max_corrupt_fraction
    task = Detection(model, optimization, validation.annotations, kinds_of(model))
    return Job(
        task=task,
        networks=[features_of(model)],
        train_batches=partial(train_loader, training, varied, size, workers, run.seed, max_corrupt_fraction=corrupt),
        validation_batches=partial(evaluation_loader, validation, plain, size, workers, max_corrupt_fraction=corrupt),
        optimization=optimization,
        validate_every=recipe.validate_every,
        monitor="box_ap",
        metrics=task.followed,
        metadata=describe(recipe.model, training.annotations.categories, recipe.augmentation, recipe.data.bit_depth),
        fingerprint=fingerprint(training.annotations, validation.annotations),
        divisor=DIVISOR,
    )


def fingerprint(training: CocoAnnotations, validation: CocoAnnotations) -> Fingerprint:
    """Of which data these are: categories, images' names and sizes in bytes, and what the annotations say."""
    names = [f"{category.id} {category.name}" for category in training.categories]
    return Fingerprint(names, training=training.listing(), validation=validation.listing())


def check_objects(training: CocoAnnotations, queries: int) -> None:
    """UserError, naming the image, where there are more objects to learn than queries to answer."""
    for index, image in enumerate(training.images):
        count = sum(not annotation["iscrowd"] for annotation in training.objects(index))
        if count > queries:
            raise UserError(
                f"image {image.id} ({image.file_name}) of {training.path} has {plural(count, 'object')}, but "
                f"model.detr.queries is {queries}: raise it"
            )


def report(folder: RunFolder, recipe: DetectionRecipe, splits: tuple[CocoImages, CocoImages]) -> None:
    """Draw the figures of a finished run, score its best weights as read back, and say where everything is."""
    best, validation = folder.checkpoints / "best.safetensors", splits[1]
    columns = read_metrics(folder.folder)
    curves = folder.figures / "curves.png"
    save_figure(run_figure({name: columns[name] for name in _SHOWN if name in columns}, folder.folder.name), curves)
    saved = load_detector(best)
    device = choose_device("cpu" if recipe.run.accelerator == "cpu" else "auto")
    batch = (recipe.optimization.batch_size, recipe.run.workers, device)
    collected = collect(saved, validation, *batch, max_corrupt_fraction=recipe.data.max_corrupt_fraction)
    scores = score(validation.annotations, collected, kinds_of(saved.model))
    write_output(folder.figures / "scores.json", json.dumps(scores, indent=2).encode())
    picture = folder.figures / "predictions.png"
    show(saved, validation, picture, device)
    read_back = ", ".join(
        f"{name} {scores[name]:.3f}" for name in ("box_ap", "box_ap50", "mask_ap50") if name in scores
    )
    print(
        f"""
best weights   {best}
               read back: {read_back}; all numbers in {folder.figures / "scores.json"}
metrics        {metrics_told(folder, recipe.run.loggers)}
curves         {curves}
predictions    {picture}

next           contagg predict {best} IMAGE_OR_FOLDER
               contagg validate {best}""",
        flush=True,
    )


@torch.inference_mode()
def show(saved: Saved, validation: CocoImages, path: Path, device: torch.device, count: int = 8) -> None:
    """Draw what is found in the first images of the validation set."""
    plain = evaluation_transform(saved.resizing)
    images: list[np.ndarray] = []
    found: list[Detections] = []
    model = saved.model.to(device)
    for place in range(len(validation)):
        if len(images) == count:
            break
        with contextlib.suppress(UnreadableSampleError):
            image, target = validation[place]
            prepared, _ = plain(image, target)
            detections = model([prepared.to(device)])[0]
            images.append(np.asarray(image.permute(1, 2, 0)))
            found.append(in_file_pixels(detections, prepared.shape[1:], image.shape[1:]))
    save_drawing(path, images, found, [category.name for category in saved.categories], least_score=0.5)
