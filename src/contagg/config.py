"""What all recipes are made of: typed dataclasses, checked when they are built. Needs no torch."""

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sized
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

from contagg.errors import UserError

MUTABLE_ON_RESUME = {"mutable_on_resume": True}
"""Metadata of a field that a run may change when it goes on: it does not touch the numbers."""

RENAMED_KEYS = {
    "model.init_from": "model.init_weights",
    "model.sets": "model.detr",
    "optimization.learning_rate": "optimization.lr, with optimization.lr_batch_size: null",
    "optimization.learning_rate_per_512": "optimization.lr, with optimization.lr_batch_size: 512",
    "optimization.learning_rate_per_256": "optimization.lr, with optimization.lr_batch_size: 256",
    "optimization.warmup_learning_rate": "optimization.warmup_lr",
    "optimization.warmup_factor": "optimization.warmup_lr, a rate and no factor",
    "optimization.minimum_learning_rate": "optimization.min_lr",
    "optimization.drop_epochs": "optimization.milestones",
    "optimization.drop_factor": "optimization.gamma",
    "optimization.backbone_factor": "optimization.backbone_lr_multiplier",
    "optimization.sampling_factor": "optimization.sampling_lr_multiplier",
    "optimization.decays": "optimization.weight_decay_for",
    "optimization.epsilon": "optimization.eps",
    "optimization.clip_gradient_norm": "optimization.max_grad_norm",
    "optimization.clip_tensor_norm": "optimization.max_grad_norm, with optimization.grad_norm_of: tensor",
    "optimization.average_decay": "optimization.ema_decay",
}
"""A recipe's key of former days, dotted -> what it is called now. An error that meets the old one names the new."""


@dataclass(frozen=True)
class Range:
    """Bounds of a recipe's number, to be put into its type: `Annotated[float, Range(0, 1, below=True)]`.

    `above` and `below` leave the bound itself out. Infinity and NaN lie in no range.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Whether `value` lies within."""
        over = value > self.low if self.above else value >= self.low
        under = value < self.high if self.below else value <= self.high
        return over and under and math.isfinite(value)

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"be {'above' if self.above else 'at least'} {self.low:g}"
        return f"lie in {'(' if self.above else '['}{self.low:g}, {self.high:g}{')' if self.below else ']'}"


@dataclass(frozen=True)
class Ascending:
    """Of a recipe's list of numbers, to be put into its type: none is below the one before."""

    def holds(self, values: tuple[float, ...]) -> bool:
        """Whether they ascend."""
        return list(values) == sorted(values)

    def __str__(self) -> str:
        return "ascend"


@dataclass(frozen=True)
class NotEmpty:
    """Of a recipe's list or text, to be put into its type."""

    def holds(self, values: tuple[Any, ...] | str) -> bool:
        """Whether there is anything."""
        return bool(values.strip() if isinstance(values, str) else values)

    def __str__(self) -> str:
        return "not be empty"


Count = Annotated[int, Range(1)]
Whole = Annotated[int, Range(0)]
Positive = Annotated[float, Range(0, above=True)]
NonNegative = Annotated[float, Range(0)]
Probability = Annotated[float, Range(0, 1)]
Fraction = Annotated[float, Range(0, 1, above=True)]
"""Above 0, up to 1."""
Rate = Annotated[float, Range(0, 1, below=True)]
"""From 0, below 1."""
Interval = Annotated[tuple[Positive, Positive], Ascending()]
"""Low and high, above 0."""
FractionInterval = Annotated[tuple[Fraction, Fraction], Ascending()]

Section = TypeVar("Section")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field, dataclasses.Field))
def section(prefix: str) -> Callable[[type[Section]], type[Section]]:
    """A part of a recipe: a frozen dataclass whose values are held to the ranges in their types.

    Args:
        prefix: What precedes a field's name in a recipe, such as `optimization.`: errors name the whole key.
            A `__post_init__` of the class's own follows the check.

    Examples:
        >>> @section("fruit.")
        ... class Fruit:
        ...     weight: Positive = 0.1
        >>> Fruit(weight=0)
        Traceback (most recent call last):
        contagg.errors.UserError: fruit.weight must be above 0, not 0
    """

    def made(owner: type[Section]) -> type[Section]:
        own_check = getattr(owner, "__post_init__", None)
        ranged = typing.get_type_hints(owner, include_extras=True)
        owner.__annotations__ = typing.get_type_hints(owner)  # what `--help` shows of the types

        def __post_init__(self: Any) -> None:
            for name, hint in ranged.items():
                value = getattr(self, name)
                for wrong in _violations(hint, value):
                    shown = list(value) if isinstance(value, tuple) else value
                    raise UserError(f"{prefix}{name} must {wrong}, not {shown}")
            if own_check is not None:
                own_check(self)

        owner.__post_init__ = __post_init__  # type: ignore[attr-defined]
        return dataclass(frozen=True, kw_only=True)(owner)

    return made


PLAIN = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
"""Types of a recipe's values, in words."""


def described(kind: Any) -> str:
    """A type of a recipe's values, in words.

    >>> described(int | None), described(tuple[float, float])
    ('a whole number or null', '[a number, a number]')
    """
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if kind in PLAIN:
        return PLAIN[kind]
    if origin is Annotated:
        return described(parts[0])
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(described, parts))
    if origin is tuple:
        return f"[{', '.join('...' if part is ... else described(part) for part in parts)}]"
    return "keys and values" if origin is dict else str(kind)


def _violations(hint: Any, value: Any) -> Iterator[str]:
    """What a type asks for that a value is not: its kind, else the bounds, those of its parts first."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        wrong = list(_violations(parts[0], value))
        yield from wrong or (str(bound) for bound in parts[1:] if hasattr(bound, "holds") and not bound.holds(value))
    elif origin is tuple:
        kinds = parts[:1] * len(value) if parts[1:] == (...,) and isinstance(value, Sized) else parts
        if not isinstance(value, tuple | list) or len(value) != len(kinds):
            yield f"be {described(hint)}"
        else:
            for kind, item in zip(kinds, value, strict=True):
                yield from _violations(kind, item)
    elif origin is Literal and value not in parts:
        yield f"be {described(hint)}"
    elif type(None) in parts:
        for part in parts:
            if value is not None and part is not type(None):
                yield from _violations(part, value)
    elif problem := _wrong_kind(hint, value):
        yield problem


def _wrong_kind(kind: Any, value: Any) -> str:
    """What a value must be to be of a plain type; of others, such as a section within a section, nothing is asked."""
    if kind in (int, float):
        right = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    elif typing.get_origin(kind) is dict or kind in (bool, str):
        right = isinstance(value, {bool: bool, str: str | Path}.get(kind, dict))
    else:
        return ""
    if isinstance(value, str) and "\0" in value:
        return "hold no NUL"
    return "" if right else f"be {described(kind)}"


def require(condition: bool, message: str) -> None:
    """Raise UserError(message) unless `condition` holds."""
    if not condition:
        raise UserError(message)


def as_dict(config: Any) -> dict[str, Any]:
    """A recipe as plain dictionaries and lists, as YAML writes them."""
    return {name: _plain(value) for name, value in asdict(config).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A recipe as plain dictionaries, under dotted keys.

    >>> flatten({"task": "classification", "run": {"seed": 0}})
    {'task': 'classification', 'run.seed': 0}
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def defaults(config: Any) -> dict[str, Any]:
    """What a recipe of the same classes says where nothing is given, as `as_dict` does; required keys are left out."""
    found: dict[str, Any] = {}
    for entry in fields(config):
        value = entry.default if entry.default_factory is MISSING else entry.default_factory()
        if value is not MISSING:
            found[entry.name] = as_dict(value) if is_dataclass(value) else _plain(value)
        elif is_dataclass(getattr(config, entry.name)):
            found[entry.name] = defaults(getattr(config, entry.name))
    return found


def mutable_keys(config: Any, prefix: str = "") -> set[str]:
    """The dotted names of the fields that a run may change when it goes on."""
    keys: set[str] = set()
    for entry in fields(config):
        value = getattr(config, entry.name)
        if entry.metadata.get("mutable_on_resume"):
            keys.add(prefix + entry.name)
        elif is_dataclass(value):
            keys |= mutable_keys(value, prefix + entry.name + ".")
    return keys


def check_references(config: Any) -> None:
    """Check what a recipe names outside itself - files, folders, networks - before anything heavy is imported.

    Asks the recipe and each config in it for its own `check_references`, where it has one, which raises UserError.
    """
    if hasattr(config, "check_references"):
        config.check_references()
    for entry in fields(config):
        if is_dataclass(value := getattr(config, entry.name)):
            check_references(value)


def require_path(path: str | Path | None, key: str) -> None:
    """UserError unless `key` is null or names a file or folder that is there."""
    require(path is None or Path(path).expanduser().exists(), f"{key}: there is no file or folder {str(path)!r}")
