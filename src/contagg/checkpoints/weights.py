"""Weights in and out of files, with a description of the model that they are of."""

import json
import logging
from pathlib import Path
from typing import Any

from safetensors.torch import save as serialize
from torch import nn

from contagg.checkpoints.bounded import described_by
from contagg.checkpoints.fitting import load_fitted
from contagg.checkpoints.hub_config import check_preprocessing
from contagg.checkpoints.options import check_model
from contagg.checkpoints.reading import read_checkpoint
from contagg.errors import UserError, class_name, plural
from contagg.files import write_atomically
from contagg.models import create
from contagg.nn.released import StateDict

logger = logging.getLogger(__name__)


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
    """The state dict of a network in a file, and what the file says of itself; errors as `read_checkpoint`.

    Of a file with the network and its moving average the network; a log line says so.
    """
    checkpoint = read_checkpoint(path)
    state, which = checkpoint.network()
    if which:
        logger.warning("%s: %s is taken", checkpoint.path, which)
    return state, checkpoint.metadata


def load_model(path: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """The model of a run folder, of a hub's folder, or of a weights file of either, in eval mode, and its metadata.

    The metadata names the model under `model`: {"name": ..., "options": {...}}; for one that classifies there is a
    class name for each output.

    Raises:
        UserError: the file cannot be read, does not say what it is of, or says what does not fit.
    """
    checkpoint = read_checkpoint(path)
    state, metadata = checkpoint.network()[0], checkpoint.metadata
    source = repr(str(checkpoint.path))
    with described_by(source, state):
        if "model" not in metadata and (task := metadata.get("task")):
            raise UserError(
                f"{source} is of the task {task!r}: contagg inspect affinity, statistics and explore show what a "
                "detector mixes, and contagg predict what it finds"
            )
        if "model" not in metadata:
            raise UserError(f"{source} does not say which model it is of; give a file that `contagg fit` wrote")
        name, options = check_model(metadata["model"]["name"], metadata["model"]["options"], source)
        model = create(name, **options)
        _check_classes(model, metadata)
        if "preprocessing" in metadata:
            check_preprocessing(metadata["preprocessing"])
    load_fitted(model, state, source)
    return model.eval(), metadata


def _check_classes(model: nn.Module, metadata: dict[str, Any]) -> None:
    names = metadata.get("class_names")
    if names is None:
        return
    if not isinstance(names, list):
        raise UserError(f"class_names must be a list of words, not {names!r}")
    metadata["class_names"] = [class_name(name) for name in names]
    if getattr(model, "num_classes", 0) not in (0, len(names)):
        raise UserError(
            f"it names {plural(len(names), 'class', 'classes')}, and its network tells {model.num_classes} apart"
        )
