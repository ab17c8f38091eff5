"""Exported networks as the bytes of a file, with what a reader must know to feed them."""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from contagg.errors import UserError

METADATA_FILE = "contagg.json"
"""The member of a .pt2 archive that holds the metadata; ONNX holds it under `metadata_props`, one value per key."""

AXES = ("batch", "channels", "height", "width")

Answer = Callable[[Tensor], Tensor]
"""(batch, channels, height, width) -> logits (batch, classes)."""


def to_pt2(program: ExportedProgram, metadata: dict[str, Any]) -> bytes:
    """torch.export's archive: `torch.export.load(path, extra_files={"contagg.json": ""})`."""
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={METADATA_FILE: json.dumps(metadata)})
    return content.getvalue()


def to_onnx(program: ExportedProgram, metadata: dict[str, Any]) -> bytes:
    """An ONNX model with input `images` and output `logits`; metadata values are JSON.

    Raises:
        UserError: the packages of the extra `export` are missing, or ONNX has no form of an operation.
    """
    _require_onnx()
    with _one_line("the network"):
        exported = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=["images"], output_names=["logits"]
        )
    assert exported is not None
    model = exported.model_proto
    for value, axes in ((model.graph.input[0], AXES), (model.graph.output[0], ("batch", "classes"))):
        for dimension, axis in zip(value.type.tensor_type.shape.dim, axes, strict=True):
            if dimension.dim_param:
                dimension.dim_param = axis
    return _described(model, metadata)


def fixed_onnx(network: nn.Module, images: Tensor, outputs: Sequence[str], metadata: dict[str, Any]) -> bytes:
    """An ONNX model of a network for images of one shape, with input `images` and these outputs; metadata as JSON.

    Raises:
        UserError: the packages of the extra `export` are missing, or the network is no graph.
    """
    _require_onnx()
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its one kernel is none of ONNX's
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # each layer that is left as it is would be a line
    try:
        with _one_line(type(network).__name__), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torchvision's NMS
            exported = torch.onnx.export(
                network, (images,), dynamo=True, verbose=False, input_names=["images"], output_names=list(outputs)
            )
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    assert exported is not None
    return _described(exported.model_proto, metadata)


def open_pt2(content: bytes) -> Answer:
    """A .pt2 file's program."""
    return torch.export.load(io.BytesIO(content)).module()


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """The exporter's error as a UserError: of its pages of advice what it names as the cause, such as the operation."""
    try:
        yield
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(f"{what} cannot be exported to ONNX: {reason}") from error


def _require_onnx() -> None:
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError("ONNX needs more packages: pip install 'contagg[export]'") from error


def _described(model: Any, metadata: dict[str, Any]) -> bytes:
    del model.graph.value_info[:]  # shapes of intermediate results in names that nobody reads
    for key, entry in metadata.items():
        model.metadata_props.add(key=key, value=json.dumps(entry))
    return model.SerializeToString()


def open_onnx(content: bytes) -> Answer:
    """An ONNX file in onnxruntime. UserError where that is missing."""
    session = onnx_session(content)
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def onnx_session(content: bytes) -> Any:
    """An ONNX file in onnxruntime, on the CPU. UserError where that is missing."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("checking an ONNX file needs onnxruntime: pip install 'contagg[export]'") from error
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
