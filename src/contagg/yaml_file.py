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
    """YAML 1.1 takes 1e-3 for text, 2026-01-31 for a date, 1:30 for 90 and `no` for false; a recipe means what it says.

    Of a key that stands twice in one place YAML keeps the last without a word: here it is a ConstructorError.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """As read, before what `<<` brings."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else "")
        return node


_REPLACED = {f"tag:yaml.org,2002:{kind}" for kind in ("timestamp", "int", "float", "bool")}
PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag not in _REPLACED]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, _pattern, _first in (
    ("int", r"[-+]?(0|[1-9]\d*|0x[0-9a-fA-F]+)", "-+0123456789"),
    (
        "float",
        r"[-+]?((\d+\.\d*|\.\d+)([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(inf|Inf|INF))|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
):
    PlainLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(rf"(?:{_pattern})\Z"), list(_first))


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
        found = parse_yaml(content.decode(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not readable YAML: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no recipe: keys and values are expected")
    _check_keys(found, path)
    return found


def parse_yaml(text: str, source: str | Path) -> Any:
    """What a text, of `source`, says. UserError in one line, as `read_yaml`, whatever it holds but for its keys.

    >>> parse_yaml("{lr: 1e-3, folder: no}", "recipe.yaml")
    {'lr': 0.001, 'folder': 'no'}
    """
    try:
        if len(text) > LONGEST_FILE:
            raise UserError(f"{source} is larger than {LONGEST_FILE:,} bytes")
        _check(text, source)
        return yaml.load(text, Loader=PlainLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a whole number of 5,000 digits
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


def _check(text: str, source: str | Path) -> None:
    """UserError for what would take without end to read, looking at the file's events alone."""
    sizes: dict[str | None, int] = {}  # of what an anchor names; None is what has no anchor
    opened: list[tuple[str | None, int]] = []
    count = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        where = f"{source}, line {event.start_mark.line + 1}" if event.start_mark else str(source)
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


def _check_keys(found: Any, source: str | Path) -> None:
    if isinstance(found, dict):
        for key, value in found.items():
            if not isinstance(key, str):
                raise UserError(f"{source}: keys must be text, not {key!r}")
            _check_keys(value, source)
    elif isinstance(found, list):
        for value in found:
            _check_keys(value, source)
