"""The task of learning without labels (DINO): what it brings to the command line. Needs no torch."""

import argparse

from contagg.arguments import (
    Command,
    add_device,
    add_loading,
    data_folder,
    model_name,
    output_file,
    run_or_weights,
    whole_above_zero,
)
from contagg.data import known_data
from contagg.data.config import NAMED_DATA
from contagg.tasks import Task


def knn(parser: argparse.ArgumentParser) -> None:
    """For `contagg knn`."""
    parser.add_argument(
        "checkpoint",
        type=run_or_weights,
        help="a run folder, a weights file, or a checkpoint of the original DINO",
    )
    parser.add_argument(
        "data",
        nargs="?",
        type=known_data,
        help=f"{', '.join(NAMED_DATA[:4])}, or a folder with train/ and val/; that of the run",
    )
    parser.add_argument(
        "--data.root", dest="root", type=data_folder, help="where the data lie (default: where the run had them)"
    )
    parser.add_argument(
        "--k", type=whole_above_zero, nargs="+", default=[10, 20, 100, 200], help="default 10 20 100 200"
    )
    parser.add_argument(
        "--temperature", type=float, default=0.07, help="a neighbour votes exp(cosine / this) (default 0.07)"
    )
    parser.add_argument("--model", type=model_name, help="which network, for a file that contagg fit did not write")
    parser.add_argument("--image-size", type=whole_above_zero, default=224, help="with --model (default 224)")
    parser.add_argument("--baselines", action="store_true", help="also of raw pixels and of the network untrained")
    parser.add_argument("--cache", help="a folder where features are kept, and taken from the next time")
    parser.add_argument("--output", type=output_file, help="a .json file for the numbers")
    add_loading(parser, batch_size=128)
    add_device(parser)


TASK = Task(
    help="learn without labels, by self-distillation (DINO, Sec. 4.5)",
    recipe="contagg.self_supervised.recipe:DinoRecipe",
    fit="contagg.self_supervised.fit:fit",
    open="contagg.self_supervised.fit:open_images",
    job="contagg.self_supervised.fit:make_job",
    report="contagg.self_supervised.fit:report",
    commands={
        "knn": Command(
            help="accuracy of the nearest training images in a network's features (Table 6)",
            run="contagg.self_supervised.evaluation:knn",
            arguments=knn,
        ),
    },
)
