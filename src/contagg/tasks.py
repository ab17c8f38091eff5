"""What a task is. The command line asks only this.

A task is a package with one object, and one entry: in `BUILT_IN` here, or in anyone's distribution as an entry point
of the group `contagg.tasks`.

```toml
[project.entry-points."contagg.tasks"]
regression = "regression:TASK"
```
"""

import importlib.metadata
import sys
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from typing import Any

import docstring_parser

from contagg.arguments import Command, load
from contagg.errors import UserError, nearest

GROUP = "contagg.tasks"

BUILT_IN = {
    "classification": "contagg.classification:TASK",
    "detection": "contagg.detection:TASK",
    "dino": "contagg.self_supervised:TASK",
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """Something that networks learn. References are "module:name", imported when they are needed.

    Attributes:
        help: One line.
        recipe: A frozen dataclass of dataclasses whose `task` is the task's name; its module must not import torch.
        fit: Trains what a recipe says. Its weights files say under `task` whose they are.
        open: recipe -> its data, opened and checked. Without it and `job` the task's runs cannot be compared.
        job: (recipe, data) -> the `contagg.training.engine.Job` that `fit` trains.
        report: (run folder, recipe, data): draws what a finished run of it shows and says where all is, as `fit`
            does in the end; other commands that train `job` do so too.
        shown: A weights file of it -> the module that `contagg.inspect` shows, and what is known of its preprocessing.
            Without it that takes such files only where they name a model, as those of networks that classify do.
        commands: What else can be done with such a file, `validate` and `predict` among it, and what the task brings
            beside. Where several tasks have a command, the weights file that is given decides.
    """

    help: str
    recipe: str
    fit: str
    open: str = ""
    job: str = ""
    report: str = ""
    shown: str = ""
    commands: Mapping[str, Command] = field(default_factory=dict)


def tasks() -> dict[str, Task]:
    """All tasks by name: ours, then those of other distributions. One that cannot be loaded is told and left out."""
    found = {name: load(reference) for name, reference in BUILT_IN.items()}
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            found[entry.name] = _loaded(entry, found)
        except UserError as error:  # a broken package must not take all other tasks away
            print(f"contagg: warning: {error}", file=sys.stderr, flush=True)
    return found


def _loaded(entry: importlib.metadata.EntryPoint, known: Mapping[str, Task]) -> Task:
    try:
        task = entry.load()
    except Exception as error:  # whatever a stranger's module raises when it is imported
        raise UserError(f"the task {entry.name!r} ({entry.value}) cannot be loaded: {error!r}") from error
    if not isinstance(task, Task):
        raise UserError(f"the task {entry.name!r} ({entry.value}) must be a contagg.tasks.Task, not {task!r}")
    if entry.name in known:
        raise UserError(f"there are two tasks of the name {entry.name!r}; the second is {entry.value}")
    return task


def recipes() -> dict[str, str]:
    """Each task's recipe, as "module:class"."""
    return {name: task.recipe for name, task in tasks().items()}


def task_named(name: str) -> Task:
    """UserError for an unknown one."""
    known = tasks()
    if name not in known:
        raise UserError(f"unknown task {name!r}.{nearest(name, known)} (known: {', '.join(known)})")
    return known[name]


def describe_keys(recipe: type, prefix: str = "", given: object = None) -> Iterator[tuple[str, str, str]]:
    """(dotted key, its default or `required`, what it is) of each value in a recipe, from its classes' docstrings."""
    told = {
        name.strip(): " ".join((part.description or "").split())
        for part in docstring_parser.parse(recipe.__doc__ or "").params
        for name in part.arg_name.split(",")
    }
    hints = typing.get_type_hints(recipe)
    for entry in fields(recipe):
        key, kind = prefix + entry.name, hints[entry.name]
        if is_dataclass(kind):
            yield from describe_keys(typing.cast(type, kind), f"{key}.", _default(entry, given))
        else:
            default = _default(entry, given)
            yield key, "required" if default is MISSING else _as_written(default), told.get(entry.name, "")


def _default(entry: Field, given: object) -> Any:
    """A field's default: that of `given`, which a task may have set for a whole section, or its own."""
    if given is not None and given is not MISSING:
        return getattr(given, entry.name)
    return entry.default_factory() if entry.default_factory is not MISSING else entry.default


def _as_written(value: object) -> str:
    """As YAML has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_as_written, value))}]"
    return str(value)
