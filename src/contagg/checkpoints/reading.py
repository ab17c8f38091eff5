"""What lies in a file of weights: safetensors with a description, or torch's files, whose code is not run."""

import argparse
import pathlib
import pickle
import re
import types
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from contagg.checkpoints.hub_config import read_folder
from contagg.checkpoints.locate import HUB_FILES, read_description, weights_in
from contagg.checkpoints.options import in_current_words
from contagg.errors import UserError, class_name
from contagg.nn.released import StateDict

_NUMBER: Any = np.float64(0).__reduce__()[0]
_HOLDERS: list[Any] = [
    argparse.Namespace,
    types.SimpleNamespace,
    pathlib.PosixPath,
    _NUMBER,
    (_NUMBER, "numpy.core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")),
]
"""Plain holders of values in training checkpoints of timm, DeiT, DINO and Lightning: options, paths, NumPy's numbers.

Beside the name of today's NumPy stands that of NumPy 1.
"""

_REFUSED = {torch.int8, torch.complex32, torch.complex64, torch.complex128} | {
    getattr(torch, name) for name in dir(torch) if name.startswith("float8_") or name.startswith("float4_")
}
"""Of tensors: numbers of 8 bits mean something only with their scales, which torch's loading does not ask for."""

_AVERAGES = ("model_ema", "state_dict_ema", "ema", "ema_state_dict")
_NETWORKS = ("model", "state_dict", "net", "network", "model_state_dict", "backbone")
"""Keys of training checkpoints, the likelier first."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file of weights holds.

    Attributes:
        path: Of the file.
        parts: Its state dicts by key, such as "model" and "model_ema"; one that is the whole file has the key "".
        metadata: What the file says of itself.
    """

    path: Path
    parts: dict[str, StateDict]
    metadata: dict[str, Any]

    def network(self, ema: bool = False) -> tuple[StateDict, str]:
        """The state dict of the network, or of its moving average, and which it is in words ("" for the only one).

        Of a checkpoint of DINO it is the teacher's backbone. The authors of DeiT, and of the networks that were
        released in its form, report `model`, so the average is taken only if it is asked for.

        Raises:
            UserError: there is none.
        """
        if dino := self.dino():
            return _below("backbone.", dino["teacher"]), "the teacher's backbone"
        averages, networks = ([key for key in keys if key in self.parts] for keys in (_AVERAGES, _NETWORKS))
        if "" in self.parts:
            networks.append("")
        found = averages if ema else [*networks, *averages]
        if not found:
            what = (
                f"no average: none of {', '.join(_AVERAGES)}" if ema else f"no network: none of {', '.join(_NETWORKS)}"
            )
            raise UserError(f"{str(self.path)!r} holds {what} is among its keys {', '.join(self.parts)}")
        both = f"{found[0]!r}, not {(networks if ema else averages)[0]!r}" if averages and networks else ""
        return self.parts[found[0]], both

    def other_classes(self, class_names: Sequence[str] | None) -> list[str]:
        """The classes that the file names, where both are known and they are not `class_names`; otherwise none."""
        there = self.metadata.get("class_names")
        if class_names is None or there is None:
            return []
        if not isinstance(there, list):
            raise UserError(f"{str(self.path)!r}: class_names must be a list of words, not {there!r}")
        names = [class_name(name) for name in there]
        return names if names != list(class_names) else []

    def dino(self) -> dict[str, StateDict] | None:
        """`student` and `teacher` of a checkpoint of the original DINO, or of a training state of ours.

        The names of their tensors are `backbone.*` and `head.*`.
        """
        parts: dict[str, StateDict] = self.parts
        if "state_dict" in parts:
            parts = {name: _below(f"{name}.", parts["state_dict"]) for name in ("student", "teacher")}
        if not (parts.get("student") and parts.get("teacher")):
            return None
        return {name: parts[name] for name in ("student", "teacher")}


def read_checkpoint(path: str | Path) -> Checkpoint:
    """All state dicts in a run folder's weights, a hub's folder, or a `.safetensors`, `.pth`, `.pt`, `.ckpt` file.

    Raises:
        UserError: there is no such file, it is damaged, it holds no state dict, or it asks to run code.
    """
    path = weights_in(path)
    if path.suffix == ".safetensors":
        metadata = read_description(path)
        parts = {"": _read_safetensors(path)}
    else:
        metadata, parts = {}, _parts(_read_pickled(path))
    if not metadata and path.name in HUB_FILES and (path.parent / "config.json").is_file():
        metadata = read_folder(path.parent)
    if not parts:
        raise UserError(f"{str(path)!r} holds no state dict: a mapping from names to tensors was expected")
    parts = {key: _plain(state, path) for key, state in parts.items()}
    return Checkpoint(path, parts, in_current_words(metadata))


def _read_safetensors(path: Path) -> StateDict:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # of a damaged file any layer may complain, in its own way
        raise UserError(f"{str(path)!r} cannot be read as weights, it may be truncated: {error}") from error


def _read_pickled(path: Path) -> Any:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise UserError(f"{str(path)!r} is a compressed archive: torch stores weights as they are")
        from pytorch_lightning.utilities.parsing import AttributeDict  # takes a second, and few files need it

        with torch.serialization.safe_globals([*_HOLDERS, AttributeDict]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # of a file that is then refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+\w)", str(error))
        raise UserError(
            f"{str(path)!r} is no plain file of weights{f', it asks for {asked[1]}' if asked else ''}, and code in it "
            "was not run; ask for safetensors, or for the state_dict alone"
        ) from error
    except Exception as error:  # of a damaged file any layer may complain, in its own way
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(f"{str(path)!r} cannot be read as weights, it may be truncated: {reason}") from error


def _parts(content: Any) -> dict[str, StateDict]:
    if _is_state_dict(content):
        return {"": content}
    if not isinstance(content, dict):
        return {}
    return {key: value for key, value in content.items() if isinstance(key, str) and _is_state_dict(value)}


def _is_state_dict(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    )


def _plain(state: StateDict, path: Path) -> StateDict:
    """A state dict of dense tensors, without what DistributedDataParallel, torch.compile and averaging add to names."""
    plain = {}
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise UserError(f"{str(path)!r}: {name} is no dense tensor with values")
        if tensor.dtype in _REFUSED:
            raise UserError(
                f"{str(path)!r}: {name} is of {tensor.dtype}: weights are float64, float32, float16, bfloat16"
            )
        if name != "n_averaged":
            plain[name.replace("_orig_mod.", "").removeprefix("module.")] = tensor.detach()
    return plain


def _below(prefix: str, state: StateDict) -> StateDict:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
