"""The model that a command means: a name, a run folder, or a weights file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from contagg.checkpoints.options import check_name
from contagg.checkpoints.weights import load_into, load_model, read_weights
from contagg.errors import UserError
from contagg.models import create


def open_model(model: str, weights: str | None = None) -> tuple[nn.Module, Mapping[str, Any]]:
    """A model in eval mode and what is known of its preprocessing ({} for a name).

    Args:
        model: A name of ours or timm's, a run folder (its best weights are taken), or a weights file of a run.
        weights: A file for a model given by name; without one its weights are random.

    Raises:
        UserError: there is no such model or file, or they do not fit.
    """
    path = weights_file(Path(model))
    if path is None:
        check_name(model, "the model")
        network = create(model)
        if weights is not None:
            load_into(network, read_weights(weights)[0], repr(weights))
        return network.eval(), {}
    if weights is not None:
        raise UserError(f"{model!r} has weights of its own; give --weights with a model's name only")
    network, metadata = load_model(path)
    return network, metadata.get("preprocessing", {})


def weights_file(path: Path) -> Path | None:
    """The weights that a path means: those of a run folder, or itself; None for what can only be a model's name."""
    if path.is_dir():
        for name in ("best", "last"):
            if (found := path / "checkpoints" / f"{name}.safetensors").is_file():
                return found
        raise UserError(f"{str(path)!r} is no run folder with weights: checkpoints/best.safetensors is missing")
    looks_like_a_path = len(path.parts) > 1 or path.suffix in (".safetensors", ".pth", ".pt", ".ckpt")
    if path.is_file() or (looks_like_a_path and ":" not in str(path)):
        return path
    return None
