"""What networks cost: the commands that measure it. Needs no torch."""

import argparse

from contagg.arguments import Command, image_size, model_name, output_folder, threads, whole_above_zero, words

VARIANTS = ("plain", "fused", "compiled", "fused+compiled")
PRECISIONS = ("fp32", "bf16")

TOP1 = {
    "container": 82.7,
    "container_light": 82.0,
    "container_v1_light": 82.26,
    "deit_small_patch16_224": 79.9,
    "resnet50": 76.2,
    "swin_tiny_patch4_window7_224": 81.3,
    "convnext_tiny": 82.1,
    "pvt_v2_b2": 82.0,
    "caformer_s18": 83.6,
    "poolformer_s24": 80.3,
    "efficientformerv2_s2": 81.6,
    "levit_256": 81.6,
}
"""ImageNet-1k accuracies as their authors report them, at 224 px and without other data.

The first three and DeiT-S as the paper and its authors' README give them; ResNet-50 as DeiT's paper does. The last two
were distilled.
"""

PAPER_IMAGES_PER_SECOND = {
    "container_light": 1156.9,
    "container": 347.8,
    "deit_small_patch16_224": 940.4,
    "resnet50": 1250.3,
    "swin_tiny_patch4_window7_224": 755.2,
}
"""Table 1, on the authors' GPU."""

TABLE1 = (*TOP1, "container_next", "hgnetv2_b4", "mobilenetv4_conv_large")
"""Table 1's networks and what one would take today: the last two are reported with other data, or at other sizes."""


def speed(parser: argparse.ArgumentParser) -> None:
    """For `contagg bench speed`."""
    parser.add_argument("models", type=model_name, nargs="+", metavar="MODEL", help="names of ours or timm's")
    _measured(parser)


def counts(parser: argparse.ArgumentParser) -> None:
    """For `contagg bench counts`."""
    parser.add_argument("models", type=model_name, nargs="+", metavar="MODEL", help="names of ours or timm's")
    parser.add_argument("--size", type=image_size, default=(224, 224), metavar="H,W", help="(default 224)")


def table1(parser: argparse.ArgumentParser) -> None:
    """For `contagg bench table1`."""
    parser.set_defaults(models=TABLE1)
    _measured(parser)


def _measured(parser: argparse.ArgumentParser) -> None:
    number = whole_above_zero
    parser.add_argument(
        "--variants", type=words(VARIANTS), default=VARIANTS, metavar="A,B", help=f"of {', '.join(VARIANTS)}"
    )
    parser.add_argument(
        "--precisions", type=words(PRECISIONS), default=("fp32",), metavar="A,B", help="of fp32, bf16 (default fp32)"
    )
    parser.add_argument("--train", action="store_true", help="measure a training step as well, uncompiled")
    parser.add_argument("--batch", type=number, default=8, metavar="N", help="images per batch (default 8)")
    parser.add_argument("--size", type=number, default=224, metavar="PIXELS", help="height and width (default 224)")
    parser.add_argument("--rounds", type=number, default=7, metavar="N", help="each measures every variant (default 7)")
    parser.add_argument("--threads", type=threads, metavar="N", help="processor threads (default: torch's)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="(default: cuda where there is one)")
    parser.add_argument(
        "--out", type=output_folder, metavar="FOLDER", help="write bench.csv, bench.json and bench.png there"
    )


COMMANDS = {
    "bench speed": Command(
        help="networks side by side: images/s, GEMM utilisation, memory",
        run="contagg.benchmark.bench:run",
        arguments=speed,
    ),
    "bench counts": Command(
        help="networks' parameters and multiply-adds",
        run="contagg.benchmark.table2:counts",
        arguments=counts,
    ),
    "bench table1": Command(
        help="the same of the networks of Table 1 and their successors in timm",
        run="contagg.benchmark.bench:run",
        arguments=table1,
    ),
    "bench table2": Command(
        help="Table 2's parameters and multiply-adds, the paper's against counted",
        run="contagg.benchmark.table2:run",
    ),
}
