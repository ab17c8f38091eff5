"""What a file or a recipe may ask of a network's constructor: an allow-list.

`timm.create_model` can fetch, read and write files (`pretrained`, `cache_dir`, `checkpoint_path`, `hf-hub:` names) and
takes whatever it is given, so nothing that a stranger wrote reaches it unseen. Needs no torch until a network is named.
"""

import dataclasses
import inspect
import re
import sys
from collections.abc import Mapping
from typing import Any

from contagg.config import RENAMED_KEYS
from contagg.errors import UserError, nearest
from contagg.names import COMMON_OPTIONS

_WITH_POWERS = re.compile(
    "(pretrained|checkpoint|cache|features_only|feature_c|out_indices$|kwargs|cfg|model_cfg|device|dtype|self"
    "|scriptable|exportable|no_jit|pruned)"
)
"""What `create_model` and `build_model_with_cfg` take for themselves; some constructors share the names."""

_MOST_VALUES, _DEEPEST, _LARGEST, _LONGEST = 2000, 6, 10**5, 200


def check_model(name: Any, options: Any, source: str) -> tuple[str, dict[str, Any]]:
    """The name and the options as given, once both are harmless.

    Args:
        name: Of one of our networks or timm's.
        options: Of its constructor, plain values.
        source: Who says so, for the error.

    Raises:
        UserError: a name that is no network's but an address, an option that the network does not document, or a value
            that is more than numbers, words and lists of them.
    """
    check_name(name, source)
    check_options(options, source)
    allowed = documented(name)
    for option in options:
        if option not in allowed:
            raise UserError(f"{source}: {name} has no argument {option!r}.{nearest(option, allowed)}")
    return name, dict(options)


def check_name(name: Any, source: str) -> None:
    """UserError for what is no plain name: `hf-hub:`, `local-dir:`, a URL, a path. Needs no torch."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_.\-]{1,200}", name):
        raise UserError(
            f"{source}: model name {name!r} must be the plain name of a network; nothing is fetched: download a "
            "hub's model and give its folder"
        )


def check_options(options: Any, source: str) -> None:
    """UserError for options that make `create_model` act, and for values that are not plain. Needs no torch."""
    if not isinstance(options, Mapping):
        raise UserError(f"{source}: the model's options must be names and values, not {options!r}")
    for option in options:
        if not isinstance(option, str) or _WITH_POWERS.match(option):
            raise UserError(f"{source}: the option {option!r} is not taken from a file or a recipe")
    count = [0]
    for option, value in options.items():
        _check_plain(value, f"{source}: the option {option}", count, 0)


def _check_plain(value: Any, what: str, count: list[int], depth: int) -> None:
    count[0] += 1
    if count[0] > _MOST_VALUES or depth > _DEEPEST:
        raise UserError(f"{what} holds too much: at most {_MOST_VALUES} values, {_DEEPEST} deep")
    if isinstance(value, list | tuple | Mapping):
        for item in [*value, *value.values()] if isinstance(value, Mapping) else value:
            _check_plain(item, what, count, depth + 1)
    elif isinstance(value, str):
        if len(value) > _LONGEST or ":" in value or not value.isprintable():
            raise UserError(f"{what} is {value!r}: a word was expected")
    elif isinstance(value, int | float):
        if not abs(value) <= _LARGEST:
            raise UserError(f"{what} is {value!r}: numbers up to {_LARGEST} are taken")
    elif value is not None:
        raise UserError(f"{what} is {value!r}: numbers, words and lists of them are taken")


def documented(name: str) -> set[str]:
    """The options of a network that a file may set: `COMMON_OPTIONS`, and what the constructors of its family name.

    Raises:
        UserError: there is no such network.
    """
    import timm
    from timm.models import model_entrypoint
    from torch import nn

    from contagg.models import NetworkConfig  # and registers ours
    from contagg.nn.build import RENAMED

    if not timm.is_model(name.split(".")[0]):
        raise UserError(f"unknown model {name!r}.{nearest(name, timm.list_models())} See `timm.list_models()`.")
    family = sys.modules[model_entrypoint(name.split(".")[0]).__module__]
    found = set(COMMON_OPTIONS)
    for kind in vars(family).values():
        if isinstance(kind, type) and issubclass(kind, nn.Module):
            given = inspect.signature(kind).parameters
            if "num_classes" in given:  # a network, not a part of one
                found |= {word for word, entry in given.items() if entry.kind is not entry.VAR_KEYWORD}
    if family.__name__ == "contagg.models":
        found |= {entry.name for entry in dataclasses.fields(NetworkConfig)} | RENAMED.keys()
    return {option for option in found if not _WITH_POWERS.match(option)}


def in_current_words(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says of itself, in the words of now: nobody can correct it where it was written before they were.

    A recipe's or a person's old word stays an error that names the new one.
    """
    found = dict(metadata)
    for part, name in (("model", "name"), ("detector", "backbone")):
        described = found.get(part)
        if not isinstance(described, dict):
            continue
        if part == "detector":
            described = {
                (RENAMED_KEYS.get(f"model.{key}") or key).removeprefix("model."): value
                for key, value in described.items()
            }
        if isinstance(described.get("options"), dict):
            described = described | {"options": _current_options(described.get(name), described["options"])}
        found[part] = described
    return found


def _current_options(name: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    from contagg.affinity.registry import current_word
    from contagg.models import CONFIGS
    from contagg.nn.build import RENAMED
    from contagg.nn.stages import RENAMED_POSITIONS

    if not isinstance(name, str) or name.split(".")[0] not in CONFIGS:
        return dict(options)
    try:
        check_options(options, "")
    except UserError:
        return dict(options)  # too deep or too much to look at: who makes the network says so

    def current(value: Any) -> Any:
        if isinstance(value, list):
            return [current(item) for item in value]
        return current_word(value) if isinstance(value, str) else value

    found = {RENAMED.get(option, option): value for option, value in options.items()}
    if "affinity" in found:
        found["affinity"] = current(found["affinity"])
    if isinstance(found.get("position"), str):
        found["position"] = RENAMED_POSITIONS.get(found["position"], found["position"])
    return found
