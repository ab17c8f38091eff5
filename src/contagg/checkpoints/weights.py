"""Weights in and out of files, safely: safetensors with a description of the model.

Nothing here unpickles code: `.pth` files are read with torch's restricted reader.
"""

import argparse
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from timm.models import clean_state_dict
from torch import Tensor, nn

from contagg.checkpoints.bounded import described_by
from contagg.checkpoints.options import check_model
from contagg.errors import UserError
from contagg.files import write_atomically
from contagg.models import create
from contagg.nn.released import StateDict, from_released, is_released, to_released

_NUMBER: Any = np.float64(0).__reduce__()[0]
_HOLDERS: list[Any] = [
    argparse.Namespace,
    _NUMBER,
    (_NUMBER, "numpy.core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float64DType,
]
"""Plain holders of values in the original DINO's files: its options, and its rates, which are numbers of NumPy's.

Beside the name of today's NumPy stands that of NumPy 1.
"""

__all__ = [
    "from_released",
    "load_into",
    "load_model",
    "read_backbone",
    "read_dino",
    "read_weights",
    "save_weights",
    "to_released",
]


def save_weights(path: str | Path, state: StateDict, metadata: dict[str, Any]) -> None:
    """Write a safetensors file beside `path` and rename it; `metadata` is kept as JSON in the file's header."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = serialize(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()},
        metadata={"contagg": json.dumps(metadata)},
    )
    write_atomically(path, content)


def read_weights(path: str | Path) -> tuple[StateDict, dict[str, Any]]:
    """The state dict of a `.safetensors`, `.pth`, `.pt` or `.ckpt` file, and its metadata ({} where it has none).

    Raises:
        UserError: there is no such file, it is truncated, it is no state dict, or it asks to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no weights at {str(path)!r}; a .safetensors or .pth file was expected there")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                return {name: file.get_tensor(name) for name in file.keys()}, json.loads(header.get("contagg", "{}"))  # noqa: SIM118
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{str(path)!r} is no plain file of weights, and code in it was not run; ask for safetensors"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise UserError(f"{str(path)!r} cannot be read as weights, it may be truncated: {error}") from error
    for key in ("state_dict_ema", "model_ema", "state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()) or not state:
        raise UserError(f"{str(path)!r} holds no state dict: a mapping from names to tensors was expected")
    return clean_state_dict(state), {}


def read_dino(path: str | Path) -> dict[str, StateDict] | None:
    """`student` and `teacher` of a checkpoint of the original DINO, or of a training state of ours; None if it is none.

    The names of their tensors are `backbone.*` and `head.*`. No code in the file is run.
    """
    if Path(path).suffix == ".safetensors" or not Path(path).is_file():
        return None
    try:
        with torch.serialization.safe_globals(_HOLDERS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError):
        return None  # read_weights says what is wrong with it
    if not isinstance(content, dict):
        return None
    if "state_dict" in content:
        content = {name: _below(f"{name}.", content["state_dict"]) for name in ("student", "teacher")}
    if not (content.get("student") and content.get("teacher")):
        return None
    return {name: {_plain(key): value for key, value in content[name].items()} for name in ("student", "teacher")}


def read_backbone(path: str | Path) -> StateDict:
    """The weights of a file, or, of a checkpoint of DINO, those of its teacher's backbone. Errors as `read_weights`."""
    dino = read_dino(path)
    return _below("backbone.", dino["teacher"]) if dino else read_weights(path)[0]


def _below(prefix: str, state: StateDict) -> StateDict:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _plain(name: str) -> str:
    """Without what DistributedDataParallel and torch.compile put before it."""
    return name.removeprefix("module.").removeprefix("_orig_mod.")


def load_into(model: nn.Module, state: StateDict, source: str) -> None:
    """Load all of a state dict; released names are mapped.

    Raises:
        UserError: tensors are missing, unexpected, or of another shape: says which and which shapes.
    """
    if is_released(state) and not is_released(model.state_dict()):
        state = from_released(state)
    expected = model.state_dict()
    problems = {
        "missing": [name for name in expected if name not in state],
        "not in the model": [name for name in state if name not in expected],
        "of another shape": [
            f"{name} {tuple(state[name].shape)}, the model's {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if name in state and state[name].shape != tensor.shape
        ],
    }
    if any(problems.values()):
        found = "; ".join(f"{len(names)} tensors {kind}: {_first(names)}" for kind, names in problems.items() if names)
        raise UserError(f"{source} does not fit this {type(model).__name__}: {found}")
    model.load_state_dict(state)


def _first(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def load_model(path: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """The model of a file that `save_weights` wrote for a run, in eval mode, and the file's metadata.

    The metadata names the model under `model`: {"name": ..., "options": {...}}.
    """
    state, metadata = read_weights(path)
    source = repr(str(path))
    with described_by(source, state):
        if "model" not in metadata:
            raise UserError(f"{source} does not say which model it is of; give a file that `contagg fit` wrote")
        name, options = check_model(metadata["model"]["name"], metadata["model"]["options"], source)
        model = create(name, **options)
    load_into(model, state, source)
    return model.eval(), metadata
