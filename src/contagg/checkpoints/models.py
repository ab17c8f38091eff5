"""The model that a command means: a name, a run folder, a folder of the hub's, or a weights file."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from contagg.checkpoints.locate import weights_file
from contagg.checkpoints.options import check_name
from contagg.checkpoints.weights import fit_state, load_into, load_model, read_weights
from contagg.errors import UserError
from contagg.models import create


def run_model(model: nn.Module, images: Tensor) -> Tensor:
    """A network's answer to (B, C, H, W). UserError where it takes no such images, as a file may say that it does."""
    try:
        return model(images)
    except UserError:
        raise
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{type(model).__name__} cannot take images of {tuple(images.shape[1:])}: {reason}") from error


def open_model(model: str, weights: str | None = None) -> tuple[nn.Module, Mapping[str, Any]]:
    """A model in eval mode and what is known of its preprocessing ({} for a name).

    Args:
        model: A name of ours or timm's, or what `load_model` takes.
        weights: A file for a model given by name; without one its weights are random.

    Raises:
        UserError: there is no such model or file, or they do not fit.
    """
    path = weights_file(model)
    if path is None:
        check_name(model, "the model")
        network = create(model)
        if weights is not None:
            load_into(network, fit_state(network, read_weights(weights)[0], repr(weights))[0], repr(weights))
        return network.eval(), {}
    if weights is not None:
        raise UserError(f"{model!r} has weights of its own; give --weights with a model's name only")
    network, metadata = load_model(path)
    return network, metadata.get("preprocessing", {})
