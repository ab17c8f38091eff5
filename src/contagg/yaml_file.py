"""YAML from files that anyone may have written: read within limits, plain values only. Needs no torch."""

import re
from pathlib import Path
from typing import Any

import yaml

from contagg.errors import UserError

LONGEST_FILE = 1 << 18
"""Bytes; the longest recipe here has 2,000."""
DEEPEST = 40
MOST_VALUES = 20_000
"""With every alias counted as often as it stands for: nine anchors of nine aliases each would be 400 million."""


class PlainLoader(yaml.SafeLoader):
    """YAML 1.1 takes 1e-3 for text and 2026-01-31 for a date; a recipe means a number and text."""


PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:timestamp"]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
)


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a file.

    Raises:
        UserError: in one line: no regular file, not YAML, tags, anchors within themselves, too large or too deep, or
            anything but keys, which are text, and values.
    """
    try:
        if not path.is_file():
            raise UserError(f"{path} is no file that can be read")
        with path.open("rb") as file:
            content = file.read(LONGEST_FILE + 1)
        if len(content) > LONGEST_FILE:
            raise UserError(f"{path} is larger than {LONGEST_FILE:,} bytes: that is no recipe")
        found = parse_yaml(content.decode(), path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no recipe: keys and values are expected")
    _check_keys(found, path)
    return found


def parse_yaml(text: str, source: Path) -> Any:
    """What a text of the file `source` says. UserError in one line, as `read_yaml`, whatever it holds."""
    try:
        _check(text, source)
        return yaml.load(text, Loader=PlainLoader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a whole number of 5,000 digits
        if isinstance(error, UserError):
            raise
        raise UserError(f"{source} is not readable YAML: {' '.join(str(error).split())}") from error


def read_section(path: Path, name: str) -> dict[str, Any]:
    """What a run's recipe says under `name`; nothing where there is no file. UserError as `read_yaml`."""
    if not path.exists():
        return {}
    found = read_yaml(path).get(name, {})
    if not isinstance(found, dict):
        raise UserError(f"{path}: {name} must hold keys and values, not {found!r}")
    return found


def _check(text: str, path: Path) -> None:
    """UserError for what would take without end to read, looking at the file's events alone."""
    sizes: dict[str | None, int] = {}  # of what an anchor names; None is what has no anchor
    opened: list[tuple[str | None, int]] = []
    count = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        where = f"{path}, line {event.start_mark.line + 1}" if event.start_mark else str(path)
        if tag := getattr(event, "tag", None):
            raise UserError(f"{where}: the tag {tag} is not for recipes: write the plain value")
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            sizes[anchor] = count - before
        elif isinstance(event, yaml.NodeEvent):
            count += _size(event, sizes, where)
            if isinstance(event, yaml.CollectionStartEvent):
                opened.append((event.anchor, count - 1))
        if len(opened) > DEEPEST:
            raise UserError(f"{where}: values lie more than {DEEPEST} deep")
        if count > MOST_VALUES:
            raise UserError(f"{where}: more than {MOST_VALUES:,} values, aliases counted as what they stand for")


def _size(event: yaml.NodeEvent, sizes: dict[str | None, int], where: str) -> int:
    """How many values begin here; notes an anchor of one value, and that one of many is not whole yet."""
    if isinstance(event, yaml.AliasEvent):
        if event.anchor not in sizes:
            raise UserError(f"{where}: *{event.anchor} stands within what it stands for, or for nothing")
        return sizes[event.anchor]
    sizes.pop(event.anchor, None)
    if event.anchor and isinstance(event, yaml.ScalarEvent):
        sizes[event.anchor] = 1
    return 1


def _check_keys(found: Any, path: Path) -> None:
    if isinstance(found, dict):
        for key, value in found.items():
            if not isinstance(key, str):
                raise UserError(f"{path}: keys must be text, not {key!r}")
            _check_keys(value, path)
    elif isinstance(found, list):
        for value in found:
            _check_keys(value, path)
