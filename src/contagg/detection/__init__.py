"""The task of finding objects and outlining them: what it brings to the command line. Needs no torch."""

import argparse

from contagg.arguments import (
    Command,
    add_checkpoint,
    add_device,
    add_figure,
    add_loading,
    data_folder,
    existing_file,
    heads,
    image_size,
    images,
    model_name,
    numbers,
    output_file,
    output_folder,
    run_or_weights,
    threads,
    whole_above_zero,
)
from contagg.checkpoints.locate import task_of
from contagg.errors import UserError
from contagg.tasks import Task

WORKS = ("inference", "training", "training-checkpointed")


def _common(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    add_device(parser)


def validate(parser: argparse.ArgumentParser) -> None:
    """For `contagg validate`."""
    _common(parser)
    add_loading(parser, batch_size=2)
    parser.add_argument(
        "--data.root", dest="root", type=data_folder, help="the data set's folder (default: where the run had it)"
    )
    parser.add_argument("--data.annotations", dest="annotations", help="JSON below it (default: the run's)")
    parser.add_argument("--data.images", dest="images", help="folder of images below it (default: the run's)")
    told = "folder for scores.json and COCO's result files (default: none)"
    parser.add_argument("--output", type=output_folder, help=told)


def predict(parser: argparse.ArgumentParser) -> None:
    """For `contagg predict`."""
    _common(parser)
    parser.add_argument("images", type=images, nargs="+", help="image files, or folders of them")
    parser.add_argument("--score", type=float, default=0.5, help="least score to tell and to draw (default 0.5)")
    parser.add_argument(
        "--output",
        choices=("table", "csv", "json"),
        default="table",
        help="what is printed (default table, which also writes into --folder)",
    )
    parser.add_argument("--folder", default="predictions", help="of pictures and COCO's files (default predictions)")
    told = "a COCO JSON whose ids of images and categories COCO's files take, by names (default: their own numbers)"
    parser.add_argument("--annotations", type=existing_file, metavar="FILE", help=told)


def queries(parser: argparse.ArgumentParser) -> None:
    """For `contagg inspect queries`."""
    add_checkpoint(parser)
    parser.add_argument("image", type=existing_file, help="an image file")
    parser.add_argument("--queries", type=numbers, metavar="N,...", help="from 1 (default: the three surest)")
    parser.add_argument("--layer", type=whole_above_zero, metavar="N", help="of the decoder, from 1 (default: last)")
    parser.add_argument("--heads", type=heads, default=("mean",), metavar="N,...|mean", help="from 1 (default mean)")
    add_figure(parser, "queries.png")


def check_queries(options: argparse.Namespace) -> None:
    """UserError for weights of another task: they have no queries."""
    if (task := task_of(options.checkpoint)) not in (None, "detection"):
        raise UserError(f"{options.checkpoint} is of the task {task!r}: only DETR, Deformable DETR and SMCA-DETR ask")


def memory(parser: argparse.ArgumentParser) -> None:
    """For `contagg bench memory`."""
    parser.add_argument("backbones", type=model_name, nargs="+", metavar="BACKBONE", help="names of ours or timm's")
    parser.add_argument("--detector", choices=("retinanet", "mask_rcnn"), default="retinanet", help="default retinanet")
    parser.add_argument("--works", nargs="+", choices=WORKS, default=WORKS, help="(default: all)")
    parser.add_argument("--height", type=whole_above_zero, default=800, metavar="PIXELS", help="default 800")
    parser.add_argument("--width", type=whole_above_zero, default=1333, metavar="PIXELS", help="default 1333")
    parser.add_argument("--threads", type=threads, default=1, metavar="N", help="of the processor (default 1)")
    parser.add_argument("--out", type=output_folder, metavar="FOLDER", help="write memory.csv and memory.json there")


def export(parser: argparse.ArgumentParser) -> None:
    """For `contagg export onnx`."""
    parser.set_defaults(form="onnx")
    parser.add_argument("model", type=run_or_weights, help="a run folder, or a weights file of it")
    parser.add_argument(
        "--size",
        type=image_size,
        metavar="H,W",
        help="multiples of 32 (default: of a wide image as the run resized it)",
    )
    parser.add_argument("--out", type=output_file, metavar="FILE", help="where to write (default: MODEL.onnx)")


TASK = Task(
    help="find objects and, with Mask R-CNN, outline them (Sec. 4.2 and 4.3)",
    recipe="contagg.detection.config:DetectionRecipe",
    fit="contagg.detection.fit:fit",
    open="contagg.detection.fit:open_images",
    job="contagg.detection.fit:make_job",
    report="contagg.detection.fit:report",
    shown="contagg.detection.shown:open_shown",
    commands={
        "validate": Command(
            help="COCO's twelve numbers of a detector", run="contagg.detection.validate:validate", arguments=validate
        ),
        "predict": Command(
            help="what a detector finds in images: a table, CSV or JSON, pictures, COCO's result files",
            run="contagg.detection.predict:predict",
            arguments=predict,
        ),
        "export onnx": Command(
            help="a detector but Mask R-CNN, for one image of one size, suppression included",
            run="contagg.detection.export:run",
            arguments=export,
        ),
        "inspect queries": Command(
            help="where the queries of DETR or SMCA-DETR look in an image, and SMCA's prior",
            run="contagg.detection.detr.cross_attention_figure:queries",
            arguments=queries,
            check=check_queries,
        ),
        "bench memory": Command(
            help="the most memory that a detector takes for an image and for a training step, on a CPU",
            run="contagg.detection.memory:run",
            arguments=memory,
        ),
    },
)
