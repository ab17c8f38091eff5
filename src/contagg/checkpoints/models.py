"""The model that a command means: a name, a run folder, a folder of the hub's, or a weights file."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from contagg.checkpoints.fitting import load_fitted
from contagg.checkpoints.locate import is_name
from contagg.checkpoints.options import check_name
from contagg.checkpoints.reading import read_checkpoint
from contagg.checkpoints.transformers_folder import is_transformers, open_transformers
from contagg.checkpoints.weights import load_model, read_weights
from contagg.errors import UserError
from contagg.models import create

Opened = tuple[nn.Module, Mapping[str, Any]]
"""A model in eval mode, and what is known of its preprocessing."""


def run_model(model: nn.Module, images: Tensor) -> Tensor:
    """A network's answer to (B, C, H, W). UserError where it takes no such images, as a file may say that it does."""
    try:
        return model(images)
    except UserError:
        raise
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{type(model).__name__} cannot take images of {tuple(images.shape[1:])}: {reason}") from error


def open_model(model: str, weights: str | None = None) -> Opened:
    """A model in eval mode and what is known of its preprocessing ({} for a name).

    Args:
        model: A name of ours or timm's, what `load_model` takes, or a folder of transformers.
        weights: A file for a model given by name; without one its weights are random.

    Raises:
        UserError: there is no such model or file, or they do not fit.
    """
    if is_name(model):
        check_name(model, "the model")
        network = create(model)
        if weights is not None:
            load_fitted(network, read_weights(weights)[0], repr(weights))
        return network.eval(), {}
    if weights is not None:
        raise UserError(f"{model!r} has weights of its own; give --weights with a model's name only")
    if Path(model).is_dir() and is_transformers(model):
        return open_transformers(model)
    network, metadata = load_model(model)
    return network, metadata.get("preprocessing", {})


def open_epochs(
    run: str, epochs: Sequence[int], opening: Callable[[str], Opened] = open_model
) -> Iterator[tuple[int, nn.Module, Mapping[str, Any]]]:
    """The network of a run as it was after each of some epochs, as `opening` gives it.

    Raises:
        UserError: the run has kept no training states, or none of an epoch; says which it has.
    """
    states = {int(path.name.split("_")[1]): path for path in sorted(Path(run, "checkpoints").glob("epoch_*.ckpt"))}
    if not states:
        raise UserError(f"--epochs: {run!r} has no training states; give a run folder that kept some")
    for epoch in epochs:
        if epoch not in states:
            known = ", ".join(map(str, states))
            raise UserError(f"--epochs: {run!r} holds no epoch {epoch}, but {known}; --run.keep_last N keeps more")
    for epoch in epochs:
        network, preprocessing = opening(run)
        source = repr(str(states[epoch]))
        load_fitted(network, read_checkpoint(states[epoch]).network()[0], source)
        yield epoch, network, preprocessing
