"""The arguments of `contagg bench`. Needs no torch."""

import argparse
from collections.abc import Callable
from pathlib import Path

FORMS = ("plain", "fused", "compiled", "fused+compiled")
PRECISIONS = ("fp32", "bf16")


def bench(parser: argparse.ArgumentParser) -> None:
    """For `contagg bench`."""
    parser.add_argument("models", nargs="*", metavar="MODEL", help="names of ours or timm's")
    parser.add_argument("--table1", action="store_true", help="the networks of Table 1 and their successors in timm")
    parser.add_argument("--forms", type=_words(FORMS), default=FORMS, metavar="A,B", help=f"of {', '.join(FORMS)}")
    parser.add_argument(
        "--precisions", type=_words(PRECISIONS), default=("fp32",), metavar="A,B", help="of fp32, bf16 (default fp32)"
    )
    parser.add_argument("--train", action="store_true", help="measure a training step as well, uncompiled")
    parser.add_argument("--batch", type=positive, default=8, metavar="N", help="images a batch (default 8)")
    parser.add_argument("--size", type=positive, default=224, metavar="PIXELS", help="height and width (default 224)")
    parser.add_argument("--rounds", type=positive, default=7, metavar="N", help="each measures every form (default 7)")
    parser.add_argument("--threads", type=positive, metavar="N", help="processor threads (default: torch's)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="(default: cuda where there is one)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write bench.csv and bench.png there")


def positive(text: str) -> int:
    """A whole number above 0. ArgumentTypeError for anything else."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _words(allowed: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    def read(text: str) -> tuple[str, ...]:
        words = tuple(word.strip() for word in text.split(","))
        for word in words:
            if word not in allowed:
                raise argparse.ArgumentTypeError(f"{word!r} is not one of {', '.join(allowed)}")
        return words

    return read
