"""Trains what a DINO recipe describes."""

from functools import partial
from typing import Any

import torch

from contagg.data.config import AugmentationConfig
from contagg.data.crops import make_crops
from contagg.data.loaders import evaluation_loader, train_loader
from contagg.data.sampling import require_batch
from contagg.data.sources import ImageData, open_data, open_unlabelled
from contagg.errors import UserError
from contagg.self_supervised.collapse import draw_teacher
from contagg.self_supervised.knn import check_neighbours
from contagg.self_supervised.networks import build_pair
from contagg.self_supervised.recipe import DinoRecipe
from contagg.self_supervised.task import Dino
from contagg.training.building import Preprocessing
from contagg.training.curves import draw_run
from contagg.training.engine import Batches, Job, make_run
from contagg.training.run_folder import RunFolder, metrics_told


def fit(recipe: DinoRecipe) -> None:
    """`contagg fit` for DINO: trains, draws, says where all is."""
    make_run(recipe, open_images, make_job, report)


def open_images(recipe: DinoRecipe) -> ImageData:
    """The images, and their classes where the nearest neighbours are asked. UserError as `open_data`."""
    if not recipe.knn.every:
        return open_unlabelled(recipe.data)
    try:
        return open_data(recipe.data)
    except UserError as error:
        raise UserError(f"{error}; only k nearest neighbours need classes: knn.every 0 trains without them") from error


def make_job(recipe: DinoRecipe, data: ImageData) -> Job:
    """What the engine trains. UserError for what does not fit: crops, neighbours, fewer images than a batch."""
    require_batch(len(data.train), recipe.optimization.batch_size, recipe.run.world_size)
    if recipe.knn.every:
        check_neighbours(recipe.knn.neighbours, len(data.train))
    student, teacher, options = build_pair(recipe.model, recipe.dino, recipe.crops)
    channels_last = recipe.run.channels_last
    task = Dino(student, teacher, recipe.dino, recipe.optimization, recipe.knn, channels_last=channels_last)
    evaluated = _evaluated(recipe.knn.crop_fraction)
    preprocessing = Preprocessing.of(teacher.backbone, recipe.model, evaluated, recipe.data.bit_depth)
    train_batches, validation_batches = _batches(recipe, data, preprocessing)
    return Job(
        task=task,
        networks=[student.backbone, teacher.backbone],
        train_batches=train_batches,
        validation_batches=validation_batches,
        optimization=recipe.optimization,
        validate_every=recipe.knn.every or 1,
        monitor=f"accuracy_knn{recipe.knn.neighbours[0]}",
        metrics=[f"accuracy_knn{k}" for k in recipe.knn.neighbours],
        export="teacher.backbone",
        metadata={
            "task": recipe.task,
            "model": {"name": recipe.model.name, "options": options},
            "class_names": list(data.class_names),
            "preprocessing": vars(preprocessing),
        },
        fingerprint=data.fingerprint(),
    )


def _evaluated(crop_fraction: float) -> AugmentationConfig:
    """How the nearest neighbours see an image: its middle, or the whole of it."""
    return AugmentationConfig(
        crop="padded" if crop_fraction == 1 else "resized", padding=0, crop_fraction=crop_fraction
    )


def _batches(recipe: DinoRecipe, data: ImageData, preprocessing: Preprocessing) -> tuple[Batches, Batches]:
    run = recipe.run
    common: dict[str, Any] = {
        "max_corrupt_fraction": recipe.data.max_corrupt_fraction,
        "pin_memory": run.accelerator != "cpu" and torch.cuda.is_available(),
    }
    crops = make_crops(recipe.crops, data.train, preprocessing.input_size, preprocessing.mean, preprocessing.std)
    plain = preprocessing.evaluation()
    return (
        partial(train_loader, data.train, crops, recipe.optimization.batch_size, run.workers, run.seed, **common),
        lambda rank, world_size: [
            evaluation_loader(images, plain, recipe.knn.batch_size, run.workers, rank, world_size, **common)
            for images in (data.train, data.validation)
            if recipe.knn.every
        ],
    )


def report(folder: RunFolder, recipe: DinoRecipe, data: ImageData) -> None:
    """Draw the figures of a finished run and say where everything is."""
    curves = draw_run(folder.folder)
    teacher = draw_teacher(folder.folder, recipe.dino.outputs)
    last = folder.checkpoints / "last.safetensors"
    labelled = "" if recipe.knn.every else " FOLDER     # of labelled images, one folder per class"
    best = "; best.safetensors is of the best k-NN accuracy" if recipe.knn.every else ""
    metric = f"accuracy_knn{recipe.knn.neighbours[0]}" if recipe.knn.every else "train_loss"
    print(
        f"""
teacher        {last} (of the last epoch{best})
metrics        {metrics_told(folder, recipe.run.loggers)}
curves         {curves}
collapse       {teacher}

next           contagg knn {last}{labelled}
               contagg fit -c RECIPE.yaml --model.init_weights {last}
               contagg curves {folder.folder} ANOTHER_RUN --metric {metric}""",
        flush=True,
    )
