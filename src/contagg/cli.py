"""The `contagg` command. A command's module is imported when it is called, and torch after its arguments are right."""

import argparse
import importlib.metadata
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from contagg.arguments import Command, load
from contagg.checkpoints.locate import task_of
from contagg.config import check_references
from contagg.errors import UserError, nearest, printable
from contagg.output import lossy_output, required_output
from contagg.tasks import describe_keys, recipes, task_named, tasks
from contagg.training.recipe_file import read_recipe
from contagg.training.signals import StoppedError

PARTS = (
    "contagg.inspect",
    "contagg.explorer",
    "contagg.export",
    "contagg.benchmark",
    "contagg.training",
    "contagg.lab",
    "contagg.placement",
    "contagg.data",
)
"""Packages whose COMMANDS serve whatever the task."""

IN_ORDER = ("fit", "validate", "predict", "knn", "inspect", "export", "bench", "curves", "compare", "place", "data")
"""Commands by their first word, as people come to need them; others follow."""

RENAMED = {
    "affinity": "contagg inspect affinity, or contagg inspect queries for the queries of DETR",
    "static": "contagg inspect static",
    "table2": "contagg bench table2",
    "export-weights": "contagg export timm",
    "detector-memory": "contagg bench memory",
    "compose-coco": "python -m tools.compose_coco, in a checkout of the repository",
}
OF_ONE_WORD = {"bench": "contagg bench speed MODEL", "export": "contagg export onnx MODEL"}
"""Commands of one word that now take a second."""
RENAMED_OPTIONS = {
    "--forms": "contagg bench speed MODEL --variants ...",
    "--table1": "contagg bench table1",
    "--to": "contagg export onnx MODEL or contagg export pt2 MODEL",
}

_PYTHONS_FORM = warnings.formatwarning

FIT = "train what a recipe describes: contagg fit -c FILE|NAME [--key value]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Leaves with 2 and one line for a bad input, 128 + the signal's number when stopped, and as `required_output` says
    where what it prints is lost.
    """
    warnings.formatwarning = _one_line
    with required_output():
        try:
            _dispatch(list(sys.argv[1:] if arguments is None else arguments))
        except UserError as error:
            _leave(2, f"error: {error}")
        except StoppedError as stop:
            _leave(128 + stop.signal_number if _rank() == "0" else 0, str(stop))
        except KeyboardInterrupt:
            _leave(130, "interrupted")


def commands() -> dict[str, dict[str | None, Command]]:
    """Name, of one word or two -> the task it is of (None: of any) -> the command."""
    found: dict[str, dict[str | None, Command]] = {}
    for task_name, task in tasks().items():
        for name, command in task.commands.items():
            found.setdefault(name, {})[task_name] = command
    for part in PARTS:
        for name, command in load(f"{part}:COMMANDS").items():
            found.setdefault(name, {})[None] = command
    return found


def _dispatch(arguments: list[str]) -> None:
    first = arguments[0] if arguments else "--help"
    if first in ("-h", "--help"):
        print(_help())
    elif first == "--version":
        try:
            print(f"contagg {importlib.metadata.version('contagg')}")
        except importlib.metadata.PackageNotFoundError as error:
            raise UserError("contagg runs from a checkout that was not installed: it has no version") from error
    elif first == "fit":
        _fit(arguments[1:])
    else:
        known = commands()
        name = _name(arguments, known)
        rest = arguments[len(name.split()) :]
        command = _of_task(name, known[name], rest)
        parser = _parser(name, command)
        if command.recipe:
            options, keys = parser.parse_known_args(rest)
            options.recipe = keys
        else:
            options = parser.parse_args(rest)
        if command.check:
            command.check(options)
        load(command.run)(options)


def _fit(arguments: list[str]) -> None:
    if {"-h", "--help"} & set(arguments):
        _print_keys(arguments)
        return
    recipe = read_recipe(arguments, recipes())
    check_references(recipe)
    with lossy_output():
        load(task_named(recipe.task).fit)(recipe)


def _name(arguments: list[str], known: Mapping[str, object]) -> str:
    """The one word or two that name a command. UserError, or the help of those that begin so, for anything else."""
    first, second = (*arguments, "")[:2]
    if first in known:
        return first
    below = [name.split()[1] for name in known if name.startswith(f"{first} ")]
    if below and f"{first} {second}" in known:
        return f"{first} {second}"
    if below and second in ("", "-h", "--help"):
        print(_help(first))
        raise SystemExit(0)
    if below:
        moved = next((RENAMED_OPTIONS[word] for word in arguments if word in RENAMED_OPTIONS), OF_ONE_WORD.get(first))
        listed = " or ".join(filter(None, (", ".join(below[:-1]), below[-1])))
        raise UserError(
            f"contagg {first} is followed by {listed}, not {second!r}.{nearest(second, below)}"
            f"{f' It is now {moved}.' if moved else ''} See contagg {first} --help"
        )
    if first in RENAMED:
        raise UserError(f"the command {first!r} is now: {RENAMED[first]}")
    names = [name.split()[0] for name in known]
    raise UserError(f"unknown command {first!r}.{nearest(first, [*names, 'fit'])} See contagg --help")


def _of_task(name: str, which: Mapping[str | None, Command], rest: list[str]) -> Command:
    """Of commands with one name that of the task whose weights file is given. The help of all where none is."""
    found = next((task for word in rest if not word.startswith("-") and (task := task_of(word))), None)
    if found is not None and found in which:
        return which[found]
    if len(which) > 1 and {"-h", "--help"} & set(rest):
        for task, command in which.items():
            print(f"of {f'the task {task}' if task else 'any other'}:\n\n{_parser(name, command).format_help()}")
        raise SystemExit(0)
    if None in which:
        return which[None]
    if found is not None and len(which) > 1:
        others = ", ".join(f"contagg {other}" for other in task_named(found).commands)
        raise UserError(f"these are weights of the task {found!r}, which has no {name!r}; it has {others}")
    return next(iter(which.values()))


def _parser(name: str, command: Command) -> "_Parser":
    parser = _Parser(prog=f"contagg {name}", description=command.help, allow_abbrev=False)
    if command.arguments:
        command.arguments(parser)
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        """One line, with the nearest option for an unknown one."""
        known = [option for action in self._actions for option in action.option_strings]
        wrong = [word.split("=")[0] for word in message.split() if word.startswith("--")]
        near = ""
        if message.startswith("unrecognized") and wrong:
            renamed = RENAMED_OPTIONS.get(wrong[0])
            near = f" It is now {renamed}" if renamed else nearest(wrong[0], known) or f" See {self.prog} --help"
        raise UserError(f"{self.prog}: {message}.{near}" if near else f"{self.prog}: {message}")


def _help(below: str = "") -> str:
    lines = [] if below else [("fit", FIT)]
    for name, which in sorted(commands().items(), key=lambda entry: None not in entry[1]):  # of every task first
        if not below or name.startswith(f"{below} "):
            lines.append((name, "; ".join(command.help for command in which.values())))
    first = list(dict.fromkeys([*IN_ORDER, *(name.split()[0] for name, _ in lines)]))
    lines.sort(key=lambda line: first.index(line[0].split()[0]))
    width = max(len(name) for name, _ in lines)
    shown = [f"  {name:{width}}  {text}" for name, text in lines]
    command = f"{below} ..." if below else "COMMAND ..."
    return "\n".join([f"usage: contagg {command}", "", *shown, "", "contagg COMMAND --help says more."])


def _print_keys(arguments: list[str]) -> None:
    """The tasks and, of each or of the one that is given with --task, all keys of its recipes."""
    known = tasks()
    chosen = {name: task for name, task in known.items() if name in arguments} or known
    print(f"usage: contagg fit -c FILE|NAME [--key value]\n\n{FIT.split(':')[0]}\n\nTasks:")
    for name, task in known.items():
        print(f"  {name:16} {task.help}")
    print("\n--print_config prints a whole recipe, --task NAME --help the keys of one task.")
    for name, task in chosen.items():
        print(f"\n{name}: key, default, what it is")
        for key, default, told in describe_keys(load(task.recipe)):
            print(f"  --{key} {'(required)' if default == 'required' else f'= {default}'}  {told}")


def _one_line(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: Any = None) -> str:
    """What our own modules warn of is said to a person, not of a line of source."""
    if Path(filename).is_relative_to(Path(__file__).parent):
        return f"contagg: warning: {printable(str(message))}\n"
    return _PYTHONS_FORM(message, category, filename, lineno, line)


def _rank() -> str:
    return os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or "0"


def _leave(code: int, message: str) -> None:
    """Print and exit; of several processes the first speaks, the others only of errors."""
    where = "" if _rank() == "0" else f" [process {_rank()}]"
    if code == 2 or not where:
        print(f"contagg{where}: {message}", file=sys.stderr, flush=True)
    raise SystemExit(code)
