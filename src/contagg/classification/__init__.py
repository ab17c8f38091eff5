"""The task of telling classes of images apart: what it brings to the command line. Needs no torch."""

import argparse

from contagg.arguments import (
    Command,
    add_checkpoint,
    add_device,
    add_loading,
    data_folder,
    images,
    output_folder,
    whole_above_zero,
)
from contagg.tasks import Task


def _common(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    add_loading(parser, batch_size=64)
    add_device(parser)


def validate(parser: argparse.ArgumentParser) -> None:
    """For `contagg validate`."""
    _common(parser)
    parser.add_argument("--data.name", dest="name", help="which data (default: those of the run)")
    parser.add_argument(
        "--data.root", dest="root", type=data_folder, help="where they lie (default: where the run had them)"
    )
    parser.add_argument("--data.validation_split", dest="validation_split", help="which split, for timm's data sets")
    told = "folder for confusion.png and confusion.csv (default: the run's figures)"
    parser.add_argument("--output", type=output_folder, help=told)


def predict(parser: argparse.ArgumentParser) -> None:
    """For `contagg predict`."""
    _common(parser)
    parser.add_argument("images", type=images, nargs="+", help="image files, or folders of them")
    parser.add_argument("--top-k", type=whole_above_zero, default=5, help="classes an image (default 5)")
    parser.add_argument("--output", choices=("table", "csv", "json"), default="table", help="default table")


TASK = Task(
    help="tell classes of images apart (Sec. 4.1)",
    recipe="contagg.classification.recipe:ClassificationRecipe",
    fit="contagg.classification.fit:fit",
    open="contagg.classification.fit:open_images",
    job="contagg.classification.fit:make_job",
    report="contagg.classification.fit:report",
    commands={
        "validate": Command(
            help="accuracy and confusion matrix on held-out images",
            run="contagg.classification.evaluation:validate",
            arguments=validate,
        ),
        "predict": Command(
            help="the likeliest classes of images", run="contagg.classification.predict:predict", arguments=predict
        ),
    },
)
