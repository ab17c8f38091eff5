"""Images and their labels, wherever they lie, and the command that looks at them. Needs no torch."""

import argparse
from pathlib import Path

from contagg.arguments import Command, data_folder, output_file, whole_above_zero
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


def pixels(text: str) -> float:
    """A length. ArgumentTypeError for what is none, or beyond any image."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of pixels from 0")
    return value


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
    parser.add_argument("--output", type=output_file, metavar="FILE", help="all that was found, as .json")


def _converting(parser: argparse.ArgumentParser, of: str) -> None:
    parser.add_argument("folder", type=data_folder, help=of)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="a new folder, in COCO's form")
    parser.add_argument(
        "--clip-boxes",
        type=pixels,
        default=1.0,
        metavar="PIXELS",
        help="a box may reach so far beyond its image, and is clipped (default 1)",
    )
    parser.add_argument(
        "--hold-out",
        type=whole_above_zero,
        default=5,
        metavar="N",
        help="where there is no validation split: of N images one, by a hash of its name (default 5)",
    )


def from_voc(parser: argparse.ArgumentParser) -> None:
    """For `contagg data from-voc`."""
    _converting(parser, "Annotations/ and JPEGImages/, or XMLs beside images, also in train/ and valid/")
    parser.add_argument(
        "--from-zero", action="store_true", help="pixels count from 0 (VOC: from 1, and the last is included)"
    )
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="in the order of their ids (default: sorted)")
    parser.add_argument(
        "--split",
        choices=("given", "hash"),
        default="given",
        help="given: by ImageSets/Main or folders where there are such; hash: as --hold-out says in any case",
    )


def from_yolo(parser: argparse.ArgumentParser) -> None:
    """For `contagg data from-yolo`."""
    _converting(parser, "data.yaml, images and labels: boxes or polygons")


def from_coco(parser: argparse.ArgumentParser) -> None:
    """For `contagg data from-coco`."""
    _converting(parser, "one JSON, or one a split, and images anywhere below")


COMMANDS = {
    "data from-voc": Command(
        help="boxes of Pascal VOC (an XML an image) as COCO's JSON, which detectors learn from",
        run="contagg.data.coco.convert:from_voc",
        arguments=from_voc,
    ),
    "data from-yolo": Command(
        help="boxes and polygons of YOLO (a text an image) as COCO's JSON, which detectors learn from",
        run="contagg.data.coco.convert:from_yolo",
        arguments=from_yolo,
    ),
    "data from-coco": Command(
        help="COCO's JSON as tools export it, without splits or with folders of their own, as fit takes it",
        run="contagg.data.coco.convert:from_coco",
        arguments=from_coco,
    ),
    "data check": Command(
        help="what there is: images of each class, their sizes, unreadable ones, duplicates",
        run="contagg.data.check:check",
        arguments=check,
    ),
}
