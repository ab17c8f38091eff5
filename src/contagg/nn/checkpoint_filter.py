"""Tensors of a checkpoint made to fit one of our networks: its names, and the image size that it is for.

timm calls `checkpoint_filter_fn` before it adapts stem and classifier (`pretrained=True`), and whoever else loads a
file calls the same function. Loading as it is (`load_state_dict`, timm's `checkpoint_path`) maps names only.
"""

import copy
import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from timm.layers import to_2tuple
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

from contagg.errors import UserError
from contagg.nn.released import RELEASED_STEM, from_released, is_released

StateDict = dict[str, Tensor]
Size = tuple[int, int]

_LARGEST = 4096
"""Pixels of the largest square image that a checkpoint of unknown size is taken for."""


def checkpoint_filter_fn(state: StateDict, model: nn.Module, image_size: Size | None = None) -> StateDict:
    """The tensors of a checkpoint under the names of `model`, and for the image size of `model`.

    What a wrapper put before the names is cut off, the authors' names become ours, and so do timm's of the attention of
    a vision transformer; what was learnt for one grid (positions, static N x N) is resized as `model.set_input_size`
    does it. Stem and classifier stay as they are.

    Args:
        state: names to tensors.
        model: one of our networks.
        image_size: (height, width) that the checkpoint was made for. Without it: what timm was told of the checkpoint
            or that of `model` where one of them fits the tensors, otherwise a square or one of the shape of `model`'s.

    Returns:
        A new dictionary where anything changes, otherwise `state`.

    Raises:
        UserError: the checkpoint holds several networks, or its image size cannot be told from its tensors.
    """
    return _for_the_image_size(_under_our_names(state, model), model, image_size)


def accept_other_names(module: nn.Module, state: StateDict, prefix: str, *_: Any) -> None:
    """A hook before `load_state_dict` of a network, or of timm's `features_only` wrapper around one.

    As a part of something larger (`prefix`) a network is loaded as it is.
    """
    if prefix:
        return
    if isinstance(module, FeatureGetterNet):
        ours = module.model.state_dict()
        found = _under_our_names(state, module.model)
        named = {f"model.{name}": tensor for name, tensor in found.items() if name in ours} or state
    else:
        named = _under_our_names(state, module)
    if named is not state:
        state.clear()
        state.update(named)


def _under_our_names(state: StateDict, model: nn.Module) -> StateDict:
    """Without a wrapper's prefix, the names of the release and timm's; `state` itself where it has none of them."""
    stem = next(name for name, parameter in model.named_parameters() if parameter.ndim == 4)
    prefixes = {
        name.removesuffix(ending)
        for name in state
        for ending in (stem, RELEASED_STEM)
        if name == ending or name.endswith(f".{ending}")
    }
    if len(prefixes) > 1 and "" not in prefixes:
        raise UserError(
            f"the checkpoint holds {len(prefixes)} networks, under {sorted(prefixes)}: give the tensors of one"
        )
    if prefixes and "" not in prefixes:
        prefix = prefixes.pop()
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    if is_released(state) and stem != RELEASED_STEM:
        return from_released(state)
    return _from_timms_attention(state, [name for name, _ in model.named_parameters()])


def _from_timms_attention(state: StateDict, ours: Sequence[str]) -> StateDict:
    """timm's names of a vision transformer's attention under those of a transformer of affinities.

    The joint projection becomes query and key of an affinity that has them, and value. `state` itself for others.
    """
    if not any(".attn.aggregation." in name for name in ours):
        return state
    found = {}
    for name, tensor in state.items():
        if not (match := re.fullmatch(r"(.+\.attn)\.(qkv|proj)\.(weight|bias)", name)):
            found[name] = tensor
        elif match[2] == "proj":
            found[f"{match[1]}.aggregation.output.{match[3]}"] = tensor
        else:
            for part, third in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                ending = f".{part}.{match[3]}"
                places = [one for one in ours if one.startswith(f"{match[1]}.") and one.endswith(ending)]
                found[places[0] if places else match[1] + ending] = third.clone()
    return found if found.keys() != state.keys() else state


def _for_the_image_size(state: StateDict, model: nn.Module, image_size: Size | None) -> StateDict:
    learnt = _LearntForOneGrid(model)
    if not any(name in state for name in learnt.names):
        return state
    size = next((size for size in _sizes(state, model, learnt, image_size) if learnt.fits(state, size)), None)
    if size is None:
        name = next(name for name in learnt.names if name in state)
        raise UserError(
            f"the checkpoint's image size {image_size or ''} cannot be told from its tensors, or does not fit them "
            f"({name} is {tuple(state[name].shape)}): give the (height, width) that it was trained with"
        )
    if size == model.img_size:
        return state
    source = copy.deepcopy(model)
    source.set_input_size(size)  # type: ignore[operator]
    source.load_state_dict({name: state[name] for name in learnt.names if name in state}, strict=False)
    source.set_input_size(model.img_size)  # type: ignore[operator]
    resized = source.state_dict()
    return state | {name: resized[name] for name in learnt.names if name in state}


def _sizes(state: StateDict, model: nn.Module, learnt: "_LearntForOneGrid", image_size: Size | None) -> Iterator[Size]:
    """Image sizes that a checkpoint may be of, the surest first."""
    if image_size is not None:
        yield to_2tuple(image_size)
        return
    if told := getattr(model, "pretrained_model_args", {}).get("img_size"):
        yield to_2tuple(told)
    yield model.img_size  # type: ignore[misc]
    if declared := getattr(model, "pretrained_cfg", {}).get("input_size"):
        yield tuple(declared[-2:])
    height, width = model.img_size  # type: ignore[misc]
    yield learnt.found(state, lambda side: (side, side))
    yield learnt.found(state, lambda side: (side, round(side * width / height)))


class _LearntForOneGrid:
    """The tensors of a network whose shapes go with the image size, seen on a copy without storage."""

    def __init__(self, model: nn.Module) -> None:
        self.copy = copy.deepcopy(model).to("meta")
        self.step = model.feature_info[0]["reduction"]  # type: ignore[index]
        height, width = model.img_size  # type: ignore[misc]
        before, after = self._shapes((height, width)), self._shapes((2 * height + 64, 2 * width + 64))
        self.names = [name for name, shape in before.items() if shape != after[name]]

    def _shapes(self, size: Size) -> dict[str, tuple[int, ...]]:
        self.copy.set_input_size(size)  # type: ignore[operator]
        return {name: tuple(tensor.shape) for name, tensor in self.copy.state_dict().items()}

    def fits(self, state: StateDict, size: Size) -> bool:
        """Whether the checkpoint's tensors have the shapes that go with an image size."""
        shapes = self._shapes(size)
        return all(tuple(state[name].shape) == shapes[name] for name in self.names if name in state)

    def found(self, state: StateDict, of_side: Callable[[int], Size]) -> Size:
        """The smallest size of a series for which there are as many numbers as in the checkpoint; it need not fit."""
        names = [name for name in self.names if name in state]
        wanted = sum(state[name].numel() for name in names)

        def numbers(side: int) -> int:
            shapes = self._shapes(of_side(side))
            return sum(math.prod(shapes[name]) for name in names)

        sides = range(self.step, _LARGEST, self.step)
        return of_side(sides[min(bisect_left(sides, wanted, key=numbers), len(sides) - 1)])
