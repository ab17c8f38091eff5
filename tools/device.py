"""All that a device is asked, in one command: python -m tools.device.

Speed in every variant, with a training step; how far each precision is from float64; memory against image size; which
kernel serves each part of a block best. Writes <out>/<device>/bench.csv, precision.csv, memory.csv and kernels.csv,
with pictures and the command, commit and device beside them.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import torch

from contagg.arguments import whole_above_zero
from contagg.benchmark import bench, speed
from contagg.benchmark.variants import Setting
from contagg.errors import UserError
from contagg.figures import save_figure
from contagg.files import write_output
from tools.kernels import kernels
from tools.memory import SIZES, memory, memory_against_tokens
from tools.precision import precision

MODELS = ("container_light", "container_v1_light", "container", "deit_small_patch16_224", "resnet50")
OURS = ("container_light", "container")
PARTS = ("bench", "precision", "memory", "kernels")


def main(arguments: list[str] | None = None) -> None:
    """Measure and write, part by part, so that what is done stays done."""
    options = _options(arguments)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here")
    about = bench.describe(device)
    about["command"] = " ".join(["python -m tools.device", *(sys.argv[1:] if arguments is None else arguments)])
    folder = options.out / re.sub(r"\W+", "-", str(about["device"]).lower()).strip("-")
    if "bench" in options.parts:
        measured = argparse.ArgumentParser()
        speed(measured)
        asked = [*options.models, "--train", "--precisions", "fp32,bf16", "--device", device.type, "--out", str(folder)]
        bench.run(measured.parse_args([*asked, "--batch", str(options.batch), "--size", str(options.size)]))
    if "precision" in options.parts:
        write_output(folder / "precision.csv", bench.csv_of(precision(OURS, device, options.size)))
    if "memory" in options.parts:
        rows = []
        for row in memory(OURS, device, [size for size in SIZES if max(size) <= options.largest]):
            rows.append(row)
            print(row, flush=True)
            write_output(folder / "memory.csv", bench.csv_of(rows))
        save_figure(memory_against_tokens(rows, f"one image, fp32, {about['device']}"), folder / "memory.png")
    if "kernels" in options.parts:
        settings = [
            Setting(device=device, precision=word, batch=options.batch, size=options.size) for word in ("fp32", "bf16")
        ]
        write_output(folder / "kernels.csv", bench.csv_of([row for setting in settings for row in kernels(setting)]))
    for part in set(options.parts) - {"bench"}:  # which writes its own
        write_output(folder / f"{part}.json", (json.dumps(about, indent=2) + "\n").encode())


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.device", description=__doc__)
    parser.add_argument(
        "--models", nargs="+", default=MODELS, metavar="MODEL", help="for the speed (default: %(default)s)"
    )
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="what to measure (default: all)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="(default: cuda where there is one)")
    parser.add_argument("--batch", type=whole_above_zero, default=8, help="images per batch for the speed (default 8)")
    parser.add_argument("--size", type=whole_above_zero, default=224, help="pixels (default 224)")
    parser.add_argument("--largest", type=whole_above_zero, default=1333, help="longest side (default 1333)")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of results (default: results)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
