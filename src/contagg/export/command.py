"""`contagg export onnx` and `contagg export pt2`: a network without this package or its source."""

import argparse
from pathlib import Path
from typing import Any

import timm.data
import torch
from torch import nn

from contagg.checkpoints.locate import task_of, weights_file
from contagg.checkpoints.models import open_model
from contagg.checkpoints.weights import load_model
from contagg.errors import UserError
from contagg.export import target
from contagg.export.formats import open_onnx, open_pt2, to_onnx, to_pt2
from contagg.export.program import export_program
from contagg.files import write_output
from contagg.nn.aggregation import serves_any_size

TOLERANCE = 1e-4
"""Largest relative difference of a file's answers, in fp32, that is taken for rounding."""


def run(options: argparse.Namespace) -> None:
    """Export, compare the file's answers with the model's, and only then write it."""
    path = target(options)
    model, description = open_described(options.model, options.weights)
    any_size = options.size is None and serves_any_size(model)
    input_size = tuple(description["preprocessing"]["input_size"])
    if options.size is not None:
        input_size = description["preprocessing"]["input_size"] = (input_size[0], *options.size)
        if not serves_any_size(model):
            model.set_input_size(options.size)  # type: ignore[operator]
    program = export_program(model, input_size, any_size)
    write, open_file = {"onnx": (to_onnx, open_onnx), "pt2": (to_pt2, open_pt2)}[options.form]
    content = write(program, description)
    answer = open_file(content)
    batches = [torch.randn(shape) for shape in trial_shapes(input_size, any_size)]
    with torch.inference_mode():
        difference = max(_relative(answer(images), model(images)) for images in batches)
    if not difference < TOLERANCE:
        raise UserError(f"{path} was not written: its answers differ from the model's by {difference:.1e}")
    write_output(path, content)
    sizes = "any batch and image size" if any_size else f"any batch of {input_size[1]} x {input_size[2]}"
    print(f"{path}: {len(content) / 1e6:.1f} MB, {sizes}; answers within {difference:.1e} of the model's")


def open_described(name: str, weights: str | None) -> tuple[nn.Module, dict[str, Any]]:
    """A network in eval mode, and what the file is to say of it: model, preprocessing, class names where known."""
    path = weights_file(Path(name))
    task = task_of(path) if path else None
    if task not in (None, "classification"):
        raise UserError(
            f"{name!r} is of the task {task!r}; networks that classify can be exported as pt2, detectors as onnx"
        )
    if path is None or weights is not None:
        model, known = open_model(name, weights)[0], dict[str, Any]()
    else:
        model, known = load_model(path)
    description = {"model": known.get("model", {"name": name, "options": {}})}
    description["preprocessing"] = dict(known.get("preprocessing", {})) or timm.data.resolve_model_data_config(model)
    if "class_names" in known:
        description["class_names"] = known["class_names"]
    return model, description


def trial_shapes(input_size: tuple[int, int, int], any_size: bool) -> list[tuple[int, int, int, int]]:
    """Batches to compare answers on: two batch sizes, and three image sizes where any is served."""
    channels, height, width = input_size
    sizes = [(height, width)]
    if any_size:
        sizes += [(height + height // 4 + 1, width), (height, width + width // 3)]
    return [(batch, channels, *size) for batch in (1, 3) for size in sizes]


def _relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got - expected).norm() / expected.norm())
