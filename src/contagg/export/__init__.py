"""Networks for other programs: the commands that write them. Needs no torch."""

import argparse
from functools import partial
from pathlib import Path

from contagg.arguments import Command, add_weights, image_size, model, output_file, output_folder, run_or_weights
from contagg.errors import UserError

FORMATS = ("onnx", "pt2")


def program(parser: argparse.ArgumentParser, form: str) -> None:
    """For `contagg export onnx` and `contagg export pt2`."""
    parser.set_defaults(form=form)
    parser.add_argument("model", type=model, help="a model's name, a run folder, or a weights file of a run")
    add_weights(parser, " (default: random)")
    parser.add_argument(
        "--size",
        type=image_size,
        metavar="H,W",
        help="serve this image size only (default: any, unless the model has a learnt N x N)",
    )
    parser.add_argument("--out", type=output_file, metavar="FILE", help=f"where to write (default: MODEL.{form})")


def weights(parser: argparse.ArgumentParser) -> None:
    """For `contagg export timm`."""
    parser.add_argument("model", type=model, help="a run folder, a weights file of it, or a name with --weights")
    parser.add_argument(
        "--weights",
        type=run_or_weights,
        metavar="WEIGHTS",
        help="anyone's for a name, such as the authors' checkpoint",
    )
    parser.add_argument("out", type=output_folder, help="the folder to write config.json and model.safetensors into")


def target(options: argparse.Namespace) -> Path:
    """The file that the arguments mean. UserError for another ending than the format's."""
    path = options.out or Path(f"{Path(options.model).stem}.{options.form}")
    if path.suffix != f".{options.form}":
        raise UserError(f"--out {path}: its ending must be .{options.form}")
    return path


COMMANDS = {
    "export onnx": Command(
        help="a network as ONNX, checked against the model's answers",
        run="contagg.export.command:run",
        arguments=partial(program, form="onnx"),
    ),
    "export pt2": Command(
        help="a network as torch.export's archive, checked against the model's answers",
        run="contagg.export.command:run",
        arguments=partial(program, form="pt2"),
    ),
    "export timm": Command(
        help="a run's weights, or anyone's for a name, as timm and the hub load them",
        run="contagg.checkpoints.timm_folder:run",
        arguments=weights,
    ),
}
