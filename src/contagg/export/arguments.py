"""The arguments of `contagg export` and `contagg export-weights`. Needs no torch."""

import argparse
import re
from pathlib import Path

from contagg.errors import UserError

FORMATS = ("onnx", "pt2")


def arguments(parser: argparse.ArgumentParser) -> None:
    """For `contagg export`."""
    parser.add_argument("model", help="a model's name, a run folder, or a weights file that `contagg fit` wrote")
    parser.add_argument("--to", choices=FORMATS, help="ONNX, or torch.export's archive (default: by --out, else onnx)")
    parser.add_argument("--weights", metavar="FILE", help="weights for a model given by name (default: random)")
    parser.add_argument(
        "--size",
        type=image_size,
        metavar="H,W",
        help="serve this image size only (default: any, unless the model has a learnt N x N)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write (default: MODEL.onnx or MODEL.pt2)")


def weights_arguments(parser: argparse.ArgumentParser) -> None:
    """For `contagg export-weights`."""
    parser.add_argument("run", help="a run folder, or a weights file of it")
    parser.add_argument("out", type=Path, help="the folder to write config.json and model.safetensors into")


def image_size(text: str) -> tuple[int, int]:
    """Height and width in pixels, or one number for both. ArgumentTypeError for anything else."""
    if not re.fullmatch(r"[1-9]\d{0,4}(,[1-9]\d{0,4})?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHT,WIDTH in pixels, such as 224,224")
    height, _, width = text.partition(",")
    return int(height), int(width or height)


def target(options: argparse.Namespace) -> tuple[str, Path]:
    """The format and the file that the arguments mean. UserError where --to and --out disagree."""
    form = options.to or (options.out.suffix[1:] if options.out and options.out.suffix else "onnx")
    path = options.out or Path(f"{Path(options.model).stem}.{form}")
    if form not in FORMATS or path.suffix != f".{form}":
        raise UserError(f"--out {path}: its ending must be .{' or .'.join([options.to] if options.to else FORMATS)}")
    return form, path
