"""The arguments of the commands about detection. Needs no torch."""

import argparse
from pathlib import Path

from contagg.classification.arguments import whole_above_zero, whole_from_zero
from contagg.files import FIGURE_ENDINGS
from contagg.inspect.arguments import heads, number, numbers

WORKS = ("inference", "training", "training-checkpointed")


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="a run folder, or a weights file of it")
    parser.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1, mps")


def validate(parser: argparse.ArgumentParser) -> None:
    """For `contagg validate`."""
    _common(parser)
    parser.add_argument("--batch-size", type=whole_above_zero, default=2, help="images at once (default 2)")
    parser.add_argument("--workers", type=whole_from_zero, default=0, help="processes that read images (default 0)")
    parser.add_argument("--data.root", dest="root", help="the data set's folder (default: where the run had it)")
    parser.add_argument("--data.annotations", dest="annotations", help="JSON below it (default: the run's)")
    parser.add_argument("--data.images", dest="images", help="folder of images below it (default: the run's)")
    parser.add_argument("--output", help="folder for scores.json and COCO's result files (default: none)")


def predict(parser: argparse.ArgumentParser) -> None:
    """For `contagg predict`."""
    _common(parser)
    parser.add_argument("images", nargs="+", help="image files, or folders of them")
    parser.add_argument("--score", type=float, default=0.5, help="least score to tell and to draw (default 0.5)")
    parser.add_argument("--output", default="predictions", help="folder (default predictions)")


def affinity(parser: argparse.ArgumentParser) -> None:
    """For `contagg affinity` on DETR or SMCA-DETR."""
    parser.add_argument("checkpoint", help="a run folder, or a weights file of it")
    parser.add_argument("image", help="an image file")
    parser.add_argument("--queries", type=numbers, metavar="N,...", help="from 1 (default: the three surest)")
    parser.add_argument("--layer", type=number, metavar="N", help="of the decoder, from 1 (default: the last)")
    parser.add_argument("--heads", type=heads, default=("mean",), metavar="N,...|mean", help="from 1 (default mean)")
    kinds = ", ".join(FIGURE_ENDINGS)
    parser.add_argument("--out", default="affinity.png", help=f"the figure, {kinds} (default affinity.png)")


def memory(parser: argparse.ArgumentParser) -> None:
    """For `contagg detector-memory`."""
    parser.add_argument("backbones", nargs="+", metavar="BACKBONE", help="names of ours or timm's")
    parser.add_argument("--detector", choices=("retinanet", "mask_rcnn"), default="retinanet", help="default retinanet")
    parser.add_argument("--works", nargs="+", choices=WORKS, default=WORKS, help="(default: all)")
    parser.add_argument("--height", type=whole_above_zero, default=800, metavar="PIXELS", help="default 800")
    parser.add_argument("--width", type=whole_above_zero, default=1333, metavar="PIXELS", help="default 1333")
    parser.add_argument("--threads", type=whole_above_zero, default=1, metavar="N", help="of the processor (default 1)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write memory.csv and memory.json there")
