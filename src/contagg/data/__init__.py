"""Images and their labels, wherever they lie, and the command that looks at them. Needs no torch."""

import argparse
from pathlib import Path

from contagg.arguments import Command, data_folder, whole_above_zero
from contagg.data.config import NAMED_DATA, PREFIXES
from contagg.errors import nearest


def known_data(text: str) -> str:
    """A folder that is there, or data with a name. ArgumentTypeError for anything else."""
    try:
        return text if text in NAMED_DATA or text.lower().startswith(PREFIXES) else data_folder(text)
    except argparse.ArgumentTypeError as error:
        named = NAMED_DATA[:4]
        near = f".{nearest(text, named)}" if nearest(text, named) else ""
        raise argparse.ArgumentTypeError(f"{error}, and it is none of {', '.join(named)}{near}") from error


def check(parser: argparse.ArgumentParser) -> None:
    """For `contagg data check`."""
    parser.add_argument("data", type=known_data, help="a folder, or digits, fashion-mnist, cifar10")
    parser.add_argument(
        "--name",
        choices=("folder", "tar", "parquet", "coco"),
        help="how they lie (default: by what is there)",
    )
    parser.add_argument("--annotations", help="for coco: one JSON below the folder (default: those in annotations/)")
    parser.add_argument("--images", default=".", help="for coco, with --annotations: the images' folder below it")
    parser.add_argument("--workers", type=whole_above_zero, default=4, help="images read at once (default 4)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="all that was found, as .json")


COMMANDS = {
    "data check": Command(
        help="what there is: images of each class, their sizes, unreadable ones, duplicates",
        run="contagg.data.check:check",
        arguments=check,
    ),
}
