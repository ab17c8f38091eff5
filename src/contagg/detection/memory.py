"""`contagg bench memory`: the most memory that a process takes for one image, and for one training step, on a CPU.

Each measurement has a process of its own, so that the peak of its resident memory is the work's.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import torch

from contagg.benchmark.bench import csv_of, describe
from contagg.data.coco.dataset import Target
from contagg.detection.config import DetectorConfig
from contagg.detection.detectors import Detector, build_detector
from contagg.errors import UserError
from contagg.files import write_output

CLASSES = 80
_OBJECTS = 7


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one work on one image took. `before` is the process with its network; `seconds` are the wall's."""

    backbone: str
    detector: str
    work: str
    height: int
    width: int
    before_megabytes: float
    peak_megabytes: float
    seconds: float


def run(options: argparse.Namespace) -> None:
    """Measure each work of each backbone, print a line for each, and write CSV and JSON where asked."""
    rows = []
    print(f"{'backbone':22} {'work':30} {'before':>9} {'peak':>9} {'seconds':>8}")
    for backbone in options.backbones:
        for work in options.works:
            row = in_its_own_process(options.detector, backbone, work, (options.height, options.width), options.threads)
            sizes = f"{row.before_megabytes:6,.0f} MB {row.peak_megabytes:6,.0f} MB"
            print(f"{row.backbone:22} {row.work:30} {sizes} {row.seconds:8.1f}", flush=True)
            rows.append(row)
            if options.out:
                _write(options, rows)


def in_its_own_process(detector: str, backbone: str, work: str, size: tuple[int, int], threads: int) -> Row:
    """UserError for a backbone that cannot serve, or where memory runs out."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(measure, detector, backbone, work, size, threads).result()
        except BrokenProcessPool as error:
            message = f"{work} of {detector} on {backbone} at {size[0]} x {size[1]} was killed: more memory is needed"
            raise UserError(message) from error


def measure(detector: Any, backbone: str, work: str, size: tuple[int, int], threads: int) -> Row:
    """One image through the detector, or one step of AdamW on it; `work` is one of `contagg.detection.WORKS`."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    checkpointing = work == "training-checkpointed"
    config = DetectorConfig(detector=detector, backbone=backbone, norm="train", checkpointing=checkpointing)
    model = build_detector(config, CLASSES)
    image, target = torch.rand(3, *size), _target(size)
    before, begin = _peak_megabytes(), time.perf_counter()
    if work == "inference":
        with torch.inference_mode():
            model.eval()([image])
    else:
        _step(model, image, target)
    seconds = time.perf_counter() - begin
    return Row(
        backbone=backbone,
        detector=detector,
        work=work,
        height=size[0],
        width=size[1],
        before_megabytes=before,
        peak_megabytes=_peak_megabytes(),
        seconds=seconds,
    )


def _step(model: Detector, image: torch.Tensor, target: Target) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    losses: Any = model.train()([image], [target])
    torch.stack(list(losses.values())).sum().backward()
    optimizer.step()


def _target(size: tuple[int, int]) -> Target:
    """Some objects, each as large as half the image and further to the right and below than the one before."""
    height, width = size
    boxes = torch.tensor([[n * width, n * height, (n + 7) * width, (n + 7) * height] for n in range(_OBJECTS)]) / 14
    masks = torch.zeros(_OBJECTS, height, width, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    return {"boxes": boxes, "labels": torch.arange(_OBJECTS), "masks": masks}


def _peak_megabytes() -> float:
    """The most that this process has had in memory so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _write(options: argparse.Namespace, rows: list[Row]) -> None:
    write_output(options.out / "memory.csv", csv_of(rows))
    about = describe(torch.device("cpu")) | {"threads": options.threads}
    write_output(options.out / "memory.json", (json.dumps(about, indent=2) + "\n").encode())
