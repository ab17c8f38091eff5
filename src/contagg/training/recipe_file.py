"""From a YAML file and command-line options to a checked recipe, or one line on what is wrong. Needs no torch."""

import argparse
import functools
import importlib
import json
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import jsonargparse
import yaml

from contagg.config import RENAMED_KEYS, as_dict, described, require
from contagg.errors import UserError, nearest
from contagg.yaml_file import parse_yaml, read_yaml

PACKAGED = Path(__file__).parents[1] / "recipes"
"""Recipes that need no checkout: `-c digits`."""

_TEXT = "contagg"
"""The mode in which jsonargparse reads values that are text: those of the command line, and text within a file."""
jsonargparse.set_loader(_TEXT, lambda text: parse_yaml(text, "the value"), exceptions=(UserError,))

Tasks = Mapping[str, str]
"""A task's name -> "module:class" of its recipe, a frozen dataclass of dataclasses."""


def read_recipe(arguments: Sequence[str], tasks: Tasks, also: Sequence[str] = ()) -> Any:
    """The recipe that `-c FILE --key value ...` asks for.

    `--print_config` prints it whole and `--help` its keys; both leave with SystemExit(0).

    Args:
        also: Options of the command beside those of a recipe, which an error may suggest.

    Raises:
        UserError: no such file, broken YAML, an unknown task, key or option, a wrong type, a value out of range.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("-c", "--config")
    first.add_argument("--task")
    first.add_argument("--print_config", action="store_true")
    first.add_argument("-h", "--help", action="store_true")
    try:
        options, rest = first.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from error
    content = _read_yaml(options.config) if options.config else {}
    recipe_class = _recipe_class(options.task or content.get("task"), options, tasks)
    parser = _parser(recipe_class)
    if options.help:
        parser.print_help()
        raise SystemExit(0)
    if options.task:
        content["task"] = options.task
    _check_keys(recipe_class, content, options.config)
    recipe = _parse(parser, recipe_class, content, rest, also)
    if options.print_config:
        print(yaml.safe_dump(as_dict(recipe), sort_keys=False), end="")
        raise SystemExit(0)
    return recipe


def _read_yaml(name: str) -> dict[str, Any]:
    path = PACKAGED / f"{name}.yaml"
    if Path(name).exists() or Path(name).name != name or not path.is_file():
        path = Path(name)
    packaged = sorted(other.stem for other in PACKAGED.glob("*.yaml"))
    near = nearest(path.name, [other.name for other in path.parent.glob("*.yaml")] + packaged)
    hint = near or f" Give a YAML file, or one of the package's: {', '.join(packaged)}"
    require(path.is_file(), f"there is no recipe {name}.{hint}")
    return read_yaml(path)


def _recipe_class(task: Any, options: argparse.Namespace, tasks: Tasks) -> type:
    if task is None and options.help:
        task = next(iter(tasks))
    known = f"known: {', '.join(tasks)}"
    require(task is not None, f"{options.config or 'the command'} names no task ({known}); give a recipe with -c FILE")
    require(isinstance(task, str) and task in tasks, f"unknown task {task!r}.{nearest(str(task), tasks)} ({known})")
    module, _, name = tasks[task].partition(":")
    return getattr(importlib.import_module(module), name)


@functools.cache  # a comparison reads a recipe for each of its arms
def _parser(recipe_class: type) -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(
        prog="contagg fit", usage="contagg fit -c FILE [--key value ...]", exit_on_error=False, parser_mode=_TEXT
    )
    parser.add_argument(
        "-c", "--config", metavar="FILE", help="A recipe; what follows on the command line overrides it."
    )
    parser.add_class_arguments(recipe_class, as_group=False)
    return parser


def _check_keys(owner: type, content: Mapping[str, Any], source: str, prefix: str = "") -> None:
    hints = typing.get_type_hints(owner)
    for key, value in content.items():
        near = _renamed(f"{prefix}{key}") or nearest(str(key), hints)
        require(key in hints, f"{source}: unknown key {prefix}{key}.{near}")
        if is_dataclass(hints[key]):
            require(isinstance(value, dict), f"{source}: {prefix}{key} must hold keys and values, not {value!r}")
            _check_keys(typing.cast(type, hints[key]), value, source, f"{prefix}{key}.")


def _renamed(key: str) -> str:
    for old, new in RENAMED_KEYS.items():
        if key == old or key.startswith(f"{old}."):  # a section's key keeps its own name
            return f" It is now {new}{key.removeprefix(old)}"
    return ""


def _parse(
    parser: jsonargparse.ArgumentParser,
    recipe_class: type,
    content: dict[str, Any],
    rest: Sequence[str],
    also: Sequence[str],
) -> Any:
    kinds = dict(_kinds(recipe_class))
    for argument in rest:
        key = argument.removeprefix("--").split("=")[0]
        free = any(key.startswith(f"{name}.") for name, kind in kinds.items() if typing.get_origin(kind) is dict)
        if argument.startswith("--") and key not in kinds and not free:
            raise UserError(f"unknown option --{key}.{_renamed(key) or nearest(key, [*kinds, *also])}")
    arguments = [*_as_options(content, kinds), *rest]
    _check_numbers(arguments, kinds)
    try:
        values = parser.instantiate(parser.parse_args(arguments))
        return recipe_class(**{entry.name: values[entry.name] for entry in fields(recipe_class)})
    except argparse.ArgumentError as error:
        raise UserError(_one_line(str(error), kinds)) from error


def _kinds(owner: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted name and the type of each value in a recipe."""
    for name, kind in typing.get_type_hints(owner).items():
        if is_dataclass(kind):
            yield from _kinds(typing.cast(type, kind), f"{prefix}{name}.")
        else:
            yield prefix + name, kind


def _as_options(content: Mapping[str, Any], kinds: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """A file's values as options that precede the command line's, so that both are checked alike."""
    for key, value in content.items():
        if prefix + key in kinds:
            _check_form(prefix + key, value, kinds[prefix + key])
            yield f"--{prefix}{key}={value if isinstance(value, str) else json.dumps(value)}"
        else:
            yield from _as_options(value, kinds, f"{prefix}{key}.")


def _check_form(key: str, value: Any, kind: Any) -> None:
    """UserError for a file's text in the place of keys and values, for which it would be read again, or the reverse."""
    text = kind is str or set(typing.get_args(kind)) == {str, type(None)}
    wrong = isinstance(value, str) and typing.get_origin(kind) in (dict, tuple)
    if wrong or (text and isinstance(value, list | dict)) or (kind is str and value is None):
        raise UserError(f"{key} must be {described(kind)}, not {'null' if value is None else repr(value)}")


def _check_numbers(arguments: Sequence[str], kinds: Mapping[str, Any]) -> None:
    """UserError for text in the place of numbers: jsonargparse reads it as YAML 1.1, where 1:30 is 90, without limits.

    Args:
        arguments: `--key=value` or `--key`, `value`.
    """
    key = ""
    for argument in arguments:
        value: str | None = argument
        if argument.startswith("--"):
            key, given, value = argument[2:].partition("=")
            value = value if given else None
        if value is not None and key in kinds and not _takes_text(kinds[key]) and _is_text(value):
            raise UserError(f"{key} must be {described(kinds[key])}, not {value!r}")


def _takes_text(kind: Any) -> bool:
    return kind in (str, Any) or isinstance(kind, str) or any(map(_takes_text, typing.get_args(kind)))


def _is_text(value: str) -> bool:
    """Whether a value is, or holds, what is no number, null, true or false."""
    try:
        found = [parse_yaml(value, "the value")]
    except UserError:
        return True
    for item in found:
        if isinstance(item, list | dict):
            found += item
    return any(isinstance(item, str) for item in found)


def _one_line(message: str, kinds: Mapping[str, Any]) -> str:
    """jsonargparse's several lines as `key must be ..., not ...`."""
    key = re.search(r'key "([\w.]+)"', message)
    value = re.search(r"(?:Got|Given) value: (.*)", message)
    if key and value and key[1] in kinds:
        return f"{key[1]} must be {described(kinds[key[1]])}, not {value[1].strip()!r}"
    return " ".join(message.split())
