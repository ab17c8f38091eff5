"""Weights that are nearly a network's made to fit it: other names, image sizes, channels and classes."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from contagg.checkpoints.reading import read_checkpoint
from contagg.device import require_finite
from contagg.errors import UserError, plural
from contagg.nn.released import StateDict, from_released, is_released

_RELEASED_STEM = "patch_embed1.proj.weight"
_FRESH = "the classifier starts anew"


def init_weights(
    model: nn.Module, path: str, *, ema: bool = False, class_names: Sequence[str] | None = None
) -> list[str]:
    """Load the weights that training begins from.

    Takes files of ours (weights, training states), of timm, DeiT, DINO and Lightning, whatever wraps the names of their
    tensors, for other image sizes, channels and classes. A classifier for other classes stays as it is.

    Args:
        model: Of ours or timm's.
        path: What `contagg.checkpoints.locate.weights_in` takes.
        ema: Take the moving average of a file that has one beside the network.
        class_names: What the model's outputs mean, to compare with a file that says so.

    Returns:
        What was chosen, left out or changed, a line each.

    Raises:
        UserError: the file cannot be read, or does not fit.
    """
    checkpoint = read_checkpoint(path)
    state, which = checkpoint.network(ema)
    source = f"model.init_weights {str(checkpoint.path)!r}"
    lines = [f"{which} is taken"] if which else []
    state, changes = fit_state(model, state, source, image_size_of(checkpoint.metadata), fresh_classifier=True)
    if (
        class_names
        and not any(line.startswith(_FRESH) for line in changes)  # else it has been said, and more to the point
        and (others := checkpoint.other_classes(class_names))
        and (dropped := classifier_names(model, state))
    ):
        state = {name: model.state_dict()[name] if name in dropped else tensor for name, tensor in state.items()}
        changes.append(f"{_FRESH}: the file's classes are {_few(others)}, here {_few(class_names)}")
    try:
        load_into(model, state, source)
    except UserError as error:
        raise UserError(f"{error}{_network_of(checkpoint.metadata)}") from error
    return [f"{source}: {line}" for line in lines + changes]


def fit_state(
    model: nn.Module,
    state: StateDict,
    source: str,
    image_size: Any = None,
    fresh_classifier: bool = False,
) -> tuple[StateDict, list[str]]:
    """A state dict under the names of a model and, where that can be done, with its shapes; in lines what was done.

    Args:
        source: Who the weights are of, for an error.
        image_size: (height, width) that the weights were learnt for, where that is known.
        fresh_classifier: The model's own classifier where the file's is for another number of classes or missing.
    """
    wanted = model.state_dict()
    state, lines = renamed(state, wanted)
    heads = classifier_names(model, [*state, *wanted])
    if any(name not in state or state[name].shape != wanted[name].shape for name in wanted.keys() - heads):
        state, changes = adapted(model, state, source, image_size)
        lines += changes
    for name, fresh in wanted.items():
        if name.endswith("num_batches_tracked"):
            state.setdefault(name, fresh)
    for name in heads:
        if name not in wanted:  # features alone are asked for
            del state[name]
        elif fresh_classifier and (name not in state or state[name].shape != wanted[name].shape):
            classes = f"is for {plural(len(state[name]), 'class', 'classes')}" if name in state else "is missing"
            state[name] = wanted[name]
            if name.endswith("weight"):
                lines.append(f"{_FRESH}: the file's {classes}, here are {len(wanted[name])}")
    return state, lines


def renamed(state: StateDict, wanted: Mapping[str, Tensor]) -> tuple[StateDict, list[str]]:
    """The tensors under a model's names: without what wraps them (`model.`, `backbone.`, ...), released names mapped.

    What lies outside of the wrapper that holds most of the model is left out.
    """
    prefix = _prefix(state, wanted)
    inside = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    lines = []
    if left := len(state) - len(inside):
        lines.append(f"under {prefix!r} {plural(len(inside), 'tensor is', 'tensors are')} taken, {left} elsewhere not")
    if is_released(inside) and not is_released(dict(wanted)):
        inside = from_released(inside)
    # timm flattens the names of some networks when it takes their features: stages.0 becomes stages_0.
    names = {_flat(name): name for name in wanted}
    return {names.get(_flat(name), name): value for name, value in inside.items()}, lines


def _prefix(state: StateDict, wanted: Mapping[str, Tensor]) -> str:
    known = {_flat(name) for name in wanted}
    found: Counter[str] = Counter()
    for name in state:
        parts = name.split(".")
        for depth in range(min(len(parts), 12)):
            rest = ".".join(parts[depth:])
            if _flat(rest) in known or rest == _RELEASED_STEM:
                found[name.removesuffix(rest)] += len(wanted) if rest == _RELEASED_STEM else 1
    return min(found, key=lambda prefix: (-found[prefix], "ema" in prefix, len(prefix)), default="")


def adapted(model: nn.Module, state: StateDict, source: str, image_size: Any = None) -> tuple[StateDict, list[str]]:
    """Tensors of the family's other forms, image sizes and numbers of channels made the model's; in lines how.

    What the family's `checkpoint_filter_fn` cannot change stays as it is.
    """
    lines = []
    family = sys.modules[type(model).__module__]
    own = getattr(model, "checkpoint_filter_fn", None)
    convert = own or getattr(family, "checkpoint_filter_fn", None)
    before = {name: value.shape for name, value in state.items()}
    if convert is not None:
        try:
            state = dict(convert(state, model, image_size) if own else convert(state, model))
        except UserError as error:
            raise UserError(f"{source}: {error}") from error
        except Exception:  # the family knows no such form: `load_into` says what does not fit
            state = dict(state)
    if resized := [name for name, value in state.items() if name in before and before[name] != value.shape]:
        lines.append(f"resized for this image size: {_few(resized)}")
    for name in _layers(model, "first_conv"):
        weight, here = state.get(f"{name}.weight"), model.state_dict().get(f"{name}.weight")
        if weight is None or here is None or weight.ndim != 4 or weight.shape[2:] != here.shape[2:]:
            continue
        there, wanted = weight.shape[1], here.shape[1]
        if there != wanted and len(weight) == len(here):
            state[f"{name}.weight"] = adapt_input_conv(wanted, weight, base_chans=there)
            lines.append(f"{name} adapted from {plural(there, 'channel')} to {wanted}")
    return state, lines


def load_into(model: nn.Module, state: StateDict, source: str) -> None:
    """Load all of a state dict; released names are mapped.

    Raises:
        UserError: tensors are missing, unexpected, of another shape, whole numbers or not finite: says which.
    """
    expected = model.state_dict()
    if is_released(state) and not is_released(expected):
        state = from_released(state)
    problems = {
        "missing": [name for name in expected if name not in state],
        "not in the model": [name for name in state if name not in expected],
        "of another shape": [
            f"{name} {tuple(state[name].shape)}, the model's {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if name in state and state[name].shape != tensor.shape
        ],
        "of whole numbers": whole_numbers(state, expected),
    }
    if any(problems.values()):
        found = "; ".join(
            f"{plural(len(names), 'tensor')} {kind}: {_few(names)}" for kind, names in problems.items() if names
        )
        raise UserError(f"{source} does not fit this {type(model).__name__}: {found}")
    require_finite(state, source)
    with torch.no_grad():
        model.load_state_dict(state)


def load_fitted(model: nn.Module, state: StateDict, source: str) -> None:
    """`load_into` of what `fit_state` makes of a state dict. UserError as theirs."""
    load_into(model, fit_state(model, state, source)[0], source)


def whole_numbers(state: StateDict, expected: StateDict) -> list[str]:
    """Names and types of tensors that hold no fractions where those of the model do: torch casts them silently."""
    return [
        f"{name} {state[name].dtype}"
        for name, tensor in expected.items()
        if name in state and tensor.is_floating_point() and not state[name].is_floating_point()
    ]


def _network_of(metadata: Mapping[str, Any]) -> str:
    """What a file says its network is, for an error; "" where it says nothing."""
    said = metadata.get("model")
    if not (isinstance(said, Mapping) and isinstance(said.get("name"), str)):
        return ""
    options = said.get("options")
    given = (f"{key} {value!r}" for key, value in options.items()) if isinstance(options, Mapping) else ()
    return f". The file is of {', '.join([said['name'], *given])}"


def image_size_of(metadata: Mapping[str, Any]) -> tuple[int, int] | None:
    """(height, width) of the images that a file's weights were learnt for, where it says so."""
    try:
        size = metadata["model"]["options"]["img_size"]
        height, width = (size, size) if isinstance(size, int) else size
        return int(height), int(width)
    except (KeyError, TypeError, ValueError):
        return None


def classifier_names(model: nn.Module, names: Mapping[str, Tensor] | Sequence[str]) -> set[str]:
    """Those of `names` that are of the model's classifier."""
    prefixes = tuple(f"{name}." for name in _layers(model, "classifier"))
    return {name for name in names if name.startswith(prefixes)}


def _layers(model: nn.Module, role: str) -> tuple[str, ...]:
    """The layers that timm knows to be the first or the classifier."""
    names = getattr(model, "pretrained_cfg", {}).get(role) or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _few(names: Sequence[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
