"""Trains what a classification recipe describes."""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from contagg.checkpoints.weights import load_model
from contagg.classification.confusion import write_confusion
from contagg.classification.evaluation import evaluate_file
from contagg.classification.pictures import answers, draw_gathering, draw_predictions
from contagg.classification.recipe import ClassificationRecipe
from contagg.classification.task import Classification
from contagg.data.loaders import evaluation_loader, train_loader
from contagg.data.sampling import require_batch
from contagg.data.sources import ImageData, open_data
from contagg.data.transforms import mixup
from contagg.device import choose_device
from contagg.errors import UserError
from contagg.training.building import Preprocessing, build_model
from contagg.training.curves import draw_run
from contagg.training.engine import Job, make_run
from contagg.training.run_folder import RunFolder, metrics_told


def fit(recipe: ClassificationRecipe) -> None:
    """`contagg fit` for classification: trains, draws, reads the best weights back, says where all is."""
    make_run(recipe, open_images, make_job, report)


def open_images(recipe: ClassificationRecipe) -> ImageData:
    """Both splits. UserError as `open_data`."""
    return open_data(recipe.data)


def make_job(recipe: ClassificationRecipe, data: ImageData) -> Job:
    """What the engine trains. UserError for what does not fit: weights, fewer images than a batch."""
    classes, run, size = len(data.class_names), recipe.run, recipe.optimization.batch_size
    if not recipe.data.is_stream:  # a stream fills a batch by going round
        require_batch(len(data.train), size, run.world_size)
    model, options = build_model(recipe.model, classes, data.class_names)
    preprocessing = Preprocessing.of(model, recipe.model, recipe.augmentation, recipe.data.bit_depth)
    task = Classification(
        model,
        recipe.optimization,
        num_classes=classes,
        label_smoothing=recipe.label_smoothing,
        mix=mixup(recipe.augmentation, classes, recipe.label_smoothing),
        channels_last=run.channels_last,
    )
    varied, plain = preprocessing.training(recipe.augmentation), preprocessing.evaluation()
    common: dict[str, Any] = {
        "max_corrupt_fraction": recipe.data.max_corrupt_fraction,
        "pin_memory": run.accelerator != "cpu" and torch.cuda.is_available(),
    }
    repeats = recipe.augmentation.repeats
    return Job(
        task=task,
        networks=[model],
        train_batches=partial(train_loader, data.train, varied, size, run.workers, run.seed, repeats=repeats, **common),
        validation_batches=partial(evaluation_loader, data.validation, plain, size, run.workers, **common),
        optimization=recipe.optimization,
        monitor="accuracy",
        metrics=list(task.metrics),
        metadata={
            "task": recipe.task,
            "model": {"name": recipe.model.name, "options": options},
            "class_names": list(data.class_names),
            "preprocessing": vars(preprocessing),
        },
        fingerprint=data.fingerprint(),
    )


def report(folder: RunFolder, recipe: ClassificationRecipe, data: ImageData) -> None:
    """Draw the figures of a finished run and say where everything is."""
    best = folder.checkpoints / "best.safetensors"
    curves = draw_run(folder.folder)
    device = choose_device("cpu" if recipe.run.accelerator == "cpu" else "auto")
    found = evaluate_file(
        best,
        data.validation,
        data.class_names,
        recipe.data.max_corrupt_fraction,
        batch_size=recipe.optimization.batch_size,
        workers=recipe.run.workers,
        device=device,
    )
    confusion = write_confusion(folder.figures, found.confusion, data.class_names)
    predictions, affinities = _draw_pictures(folder, best, data, device)
    print(
        f"""
best weights   {best}
               read back: {found}
last weights   {folder.checkpoints / "last.safetensors"}
metrics        {metrics_told(folder, recipe.run.loggers)}
curves         {curves}
confusion      {confusion}
predictions    {predictions}
affinities     {affinities}

next           contagg predict {best} IMAGE_OR_FOLDER
               contagg inspect affinity {folder.folder} IMAGE --at ROW,COL
               contagg validate {best}
               contagg curves {folder.folder} ANOTHER_RUN""",
        flush=True,
    )


def _draw_pictures(folder: RunFolder, weights: Path, data: ImageData, device: torch.device) -> tuple[Path, str]:
    """Where the pictures are of held-out images and of what is gathered in some, or why there is none of these."""
    model, metadata = load_model(weights)
    found = answers(model, Preprocessing.read(metadata, str(weights)), data.validation, device)
    predictions = draw_predictions(folder.figures / "predictions.png", found, data.class_names)
    path = folder.figures / "affinity.png"
    try:
        return predictions, str(draw_gathering(path, model, metadata["preprocessing"], found))
    except UserError as error:
        return predictions, f"no figure: {error}"
