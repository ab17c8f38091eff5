"""What all recipes are made of: typed dataclasses, checked when they are built. Needs no torch."""

from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from contagg.errors import UserError

MUTABLE_ON_RESUME = {"mutable_on_resume": True}
"""Metadata of a field that a run may change when it goes on: it does not touch the numbers."""


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


def defaults(config: Any) -> dict[str, Any]:
    """What a recipe of the same classes says where nothing is given, as `as_dict` does; required keys are left out."""
    found: dict[str, Any] = {}
    for entry in fields(config):
        value = getattr(config, entry.name)
        if is_dataclass(value):
            found[entry.name] = defaults(value)
        elif entry.default is not MISSING:
            found[entry.name] = _plain(entry.default)
        elif entry.default_factory is not MISSING:
            found[entry.name] = _plain(entry.default_factory())
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
