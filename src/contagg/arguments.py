"""What a command is, and what its arguments may be: checked before torch is imported, each fault in one line."""

import argparse
import importlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contagg.checkpoints.locate import find_weights, is_name
from contagg.errors import UserError
from contagg.files import FIGURE_ENDINGS, is_file, is_folder, obstacle
from contagg.names import unknown_model

MOST_THREADS = 1024

Position = tuple[int | float, int | float]


@dataclass(frozen=True, kw_only=True)
class Command:
    """A subcommand.

    Attributes:
        help: One line.
        run: "module:function"; takes the parsed arguments. Imported once they are right.
        arguments: Adds arguments to a parser; its module must not import torch. None takes none.
        recipe: Whether arguments that it does not know are a recipe's, `-c FILE --key value ...`: `run` finds them in
            `options.recipe` and reads them before anything heavy is imported.
        check: Raises UserError for arguments that do not fit each other or the files that they name. Called before
            `run` is imported; its module must not import torch.
    """

    help: str
    run: str
    arguments: Callable[[argparse.ArgumentParser], None] | None = None
    recipe: bool = False
    check: Callable[[argparse.Namespace], None] | None = None


def load(reference: str) -> Any:
    """What "module:name" names.

    >>> load("math:floor")(2.5)
    2
    """
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


def whole_above_zero(text: str) -> int:
    """A number that counts something. ArgumentTypeError for anything else."""
    return _whole(text, 1, "above 0")


def whole_from_zero(text: str) -> int:
    """A number that counts something that may be absent. ArgumentTypeError for anything else."""
    return _whole(text, 0, "from 0")


def _whole(text: str, least: int, named: str) -> int:
    if not re.fullmatch(r"\s*\d{1,18}\s*", text) or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {named}")
    return int(text)


def threads(text: str) -> int:
    """Of the processor. ArgumentTypeError for so many that the system would end the process."""
    number = whole_above_zero(text)
    if number > MOST_THREADS:
        raise argparse.ArgumentTypeError(
            f"{number:,} threads are more than {MOST_THREADS:,}; see how many cores there are"
        )
    return number


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers from 1 with commas between."""
    return tuple(whole_above_zero(word) for word in text.split(","))


def heads(text: str) -> tuple[int | str, ...]:
    """Whole numbers from 1 or `mean`, with commas between."""
    return tuple("mean" if word.strip() == "mean" else whole_above_zero(word) for word in text.split(","))


def position(text: str) -> Position:
    """Row and column: whole numbers, or fractions with a decimal point. ArgumentTypeError for anything else.

    >>> position("120,80"), position("0.5, .25")
    ((120, 80), (0.5, 0.25))
    """
    words = text.split(",")
    if len(words) != 2 or not all(re.fullmatch(r"\s*(\d+|\d*\.\d+|\d+\.)\s*", word) for word in words):
        raise argparse.ArgumentTypeError(f"{text!r} is not ROW,COL, such as 120,80 or 0.5,0.25")
    row, column = (float(word) if "." in word else int(word) for word in words)
    return row, column


def image_size(text: str) -> tuple[int, int]:
    """Height and width in pixels, or one number for both. ArgumentTypeError for anything else."""
    if not re.fullmatch(r"[1-9]\d{0,4}(,[1-9]\d{0,4})?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHT,WIDTH in pixels, such as 224,224")
    height, _, width = text.partition(",")
    return int(height), int(width or height)


def words(allowed: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    """A type of argument: some of `allowed`, with commas between."""

    def read(text: str) -> tuple[str, ...]:
        found = tuple(word.strip() for word in text.split(","))
        for word in found:
            if word not in allowed:
                raise argparse.ArgumentTypeError(f"{word!r} is not one of {', '.join(allowed)}")
        return found

    return read


def ending(endings: tuple[str, ...]) -> Callable[[str], str]:
    """A type of argument: a file's name with one of `endings`."""

    def check(text: str) -> str:
        if Path(text).suffix not in endings:
            raise argparse.ArgumentTypeError(f"{text!r} must end in one of {', '.join(endings)}")
        output_file(text)
        return text

    return check


def output_file(text: str) -> Path:
    """A file that can be written when the work is done. ArgumentTypeError where something is in its way."""
    return _output(Path(text), folder=False)


def output_folder(text: str) -> Path:
    """A folder that files can be written into when the work is done."""
    return _output(Path(text), folder=True)


def _output(path: Path, folder: bool) -> Path:
    if problem := obstacle(path, folder):
        raise argparse.ArgumentTypeError(f"{path} cannot be written: {problem}")
    return path


def run_or_weights(text: str) -> str:
    """A run folder or a weights file, which is there."""
    try:
        find_weights(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def add_weights(parser: argparse.ArgumentParser, otherwise: str = "") -> None:
    """`--weights`, of commands whose model may be a name; `otherwise` says what it has without them."""
    told = f"for a model given by name: a file or a run{otherwise}"
    parser.add_argument("--weights", type=run_or_weights, metavar="WEIGHTS", help=told)


def model(text: str) -> str:
    """A run folder, a weights file, or the name of one of our networks or timm's."""
    return model_name(text) if is_name(text) else run_or_weights(text)


def model_name(text: str) -> str:
    """The name of one of our networks or timm's. ArgumentTypeError for others, hf-hub: and the like among them."""
    if problem := unknown_model(text):
        raise argparse.ArgumentTypeError(problem)
    return text


def existing_file(text: str) -> str:
    """A file that is there."""
    if not is_file(text):
        raise argparse.ArgumentTypeError(f"there is no file {text!r}")
    return text


def existing_folder(text: str) -> str:
    """A folder that is there."""
    if not is_folder(text):
        raise argparse.ArgumentTypeError(f"there is no folder {text!r}")
    return text


def data_folder(text: str) -> str:
    """A folder that is there; ~ is a person's own."""
    if not is_folder(os.path.expanduser(text)):  # noqa: PTH111  which leaves ~ of nobody as it is
        raise argparse.ArgumentTypeError(f"there is no folder {text!r}")
    return text


def images(text: str) -> str:
    """An image file or a folder of them, which is there."""
    if not Path(text).exists():
        raise argparse.ArgumentTypeError(f"there is no image or folder {text}")
    return text


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """A run whose weights are asked for."""
    parser.add_argument("checkpoint", type=run_or_weights, help="a run folder, or a weights file of it")


def add_loading(parser: argparse.ArgumentParser, batch_size: int) -> None:
    """--batch-size and --workers."""
    help = f"images at once (default {batch_size})"
    parser.add_argument("--batch-size", type=whole_above_zero, default=batch_size, help=help)
    parser.add_argument("--workers", type=whole_from_zero, default=0, help="processes that read images (default 0)")


def add_device(parser: argparse.ArgumentParser) -> None:
    """--device."""
    parser.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1, mps")


def add_figure(parser: argparse.ArgumentParser, default: str) -> None:
    """--out, a figure's file."""
    kinds = ", ".join(FIGURE_ENDINGS)
    parser.add_argument(
        "-o", "--out", type=ending(FIGURE_ENDINGS), default=default, help=f"the figure, {kinds} (default {default})"
    )
