"""The arguments of the commands about classification. Needs no torch."""

import argparse


def whole_above_zero(text: str) -> int:
    """An argument that counts something."""
    return _whole(text, 1, "above 0")


def whole_from_zero(text: str) -> int:
    """An argument that counts something that may be absent."""
    return _whole(text, 0, "from 0")


def _whole(text: str, least: int, named: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {named}")
    return value


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="a run folder, or a weights file of it")
    parser.add_argument("--batch-size", type=whole_above_zero, default=64, help="images at once (default 64)")
    parser.add_argument("--workers", type=whole_from_zero, default=0, help="processes that read images (default 0)")
    parser.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1, mps")


def validate(parser: argparse.ArgumentParser) -> None:
    """For `contagg validate`."""
    _common(parser)
    parser.add_argument("--data.name", dest="name", help="which data (default: those of the run)")
    parser.add_argument("--data.root", dest="root", help="where they lie (default: where the run had them)")
    parser.add_argument("--data.validation_split", dest="validation_split", help="which split, for timm's data sets")
    parser.add_argument("--output", help="folder for confusion.png and confusion.csv (default: the run's figures)")


def predict(parser: argparse.ArgumentParser) -> None:
    """For `contagg predict`."""
    _common(parser)
    parser.add_argument("images", nargs="+", help="image files, or folders of them")
    parser.add_argument("--top-k", type=whole_above_zero, default=5, help="classes an image (default 5)")
    parser.add_argument("--output", choices=("table", "csv", "json"), default="table", help="default table")


def curves(parser: argparse.ArgumentParser) -> None:
    """For `contagg curves`."""
    parser.add_argument("runs", nargs="+", help="run folders")
    parser.add_argument("--metric", default="accuracy", help="a column of metrics.csv (default accuracy)")
    parser.add_argument("--against", choices=("epoch", "step"), default="epoch", help="(default epoch)")
    parser.add_argument("--output", default="curves.png", help="the picture (default curves.png)")
