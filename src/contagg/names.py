"""What networks, their options and affinities are called, as source files say it: importing them takes seconds.

What is wrong for sure is told in a tenth of one. Where it may be right after all, such as a word that another
distribution registers, the answer is left to those who know.
"""

import ast
import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from contagg.errors import UserError, nearest

PLUGINS = ("contagg.tasks", "contagg.affinities")
"""Groups of entry points by which other distributions add to this one."""

COMMON_OPTIONS = frozenset({"num_classes", "in_chans", "img_size", "global_pool"}) | {
    f"{part}_rate" for part in ("drop", "drop_path", "attn_drop", "proj_drop", "pos_drop", "patch_drop")
}
"""What most of timm's networks take, some of them through `**kwargs`."""

_HERE = Path(__file__).parent
_OLD_OR_NONE = re.compile("conv|mlp|full-conv|group-conv")
"""How words begin that were others once, or that are of no affinity: who builds them has the answer."""


def unknown_model(name: str) -> str | None:
    """What is wrong with a network's name, as far as it can be told without importing timm; None where it may be right.

    >>> unknown_model("container_lihgt")
    "unknown model 'container_lihgt'. Did you mean 'container_light'?"
    """
    registered, mentioned = _of_networks()
    architecture = name.split(".")[0]
    if architecture in mentioned or "resnet50" not in registered or (_plugged(*PLUGINS) and ":" not in name):
        return None  # also where timm lies here without its source, or somebody's package may register networks
    return f"unknown model {name!r}.{nearest(architecture, registered)}"


def unknown_option(name: str, option: str) -> str | None:
    """What is wrong with an option of a network's constructor; None where it may be right.

    >>> unknown_option("container_light", "afinity")
    "container_light has no argument 'afinity'. Did you mean 'affinity'?"
    """
    ours, fields = _of_our_networks()
    known = fields | COMMON_OPTIONS if name.split(".")[0] in ours else _of_all_arguments()
    if option in known or not _timms_models() or (_plugged(*PLUGINS) and name not in ours):
        return None
    return f"{name} has no argument {option!r}.{nearest(option, known)}"


def unknown_word(word: str) -> str | None:
    """What is wrong with an affinity's word, or with one of two; None where it may be right.

    >>> unknown_word("atention + dwconv5")
    "affinity 'atention + dwconv5': 'atention' is not a known affinity. Did you mean 'attention'?"
    """
    patterns, examples = _of_affinities()
    for term in map(str.strip, word.split("+")):
        if not (_OLD_OR_NONE.match(term) or any(re.fullmatch(pattern, term) for pattern in patterns)):
            if _plugged("contagg.affinities"):
                return None
            return f"affinity {word!r}: {term!r} is not a known affinity.{nearest(term, examples)}"
    return None


def require_model(name: str, options: Mapping[str, Any], key: str) -> None:
    """UserError that names the recipe's `key` for a network that there is not, or `model.options` that it has not."""
    if problem := unknown_model(name):
        raise UserError(f"{key}: {problem}")
    for option in options:
        if problem := unknown_option(name, option):
            raise UserError(f"model.options: {problem}")
    for word in _words(options.get("affinity")):
        if problem := unknown_word(word):
            raise UserError(f"model.options: {problem} See contagg.list_affinities()")


def pattern_of(template: str) -> str:
    """A template of affinities' words as a regular expression.

    `{name}` is a whole number, `{name...}` one or more with spaces between them, `[...]` may be left out.
    """
    pattern = re.escape(template).replace(r"\[", "(?:").replace(r"\]", ")?").replace(r"\ ", " ")
    pattern = re.sub(r"\\\{(\w+)\\\.\\\.\\\.\\\}", r"(?P<\1>\\d{1,6}(?: \\d{1,6})*)", pattern)
    return re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>\\d{1,6})", pattern)


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _words(item)


def _plugged(*groups: str) -> bool:
    """Whether another distribution adds anything under one of these groups."""
    return any(True for group in groups for _ in importlib.metadata.entry_points(group=group))


@cache
def _of_networks() -> tuple[frozenset[str], frozenset[str]]:
    """The names that timm's source and ours register, and all words that they define or quote.

    What is not even quoted there is no network's name.
    """
    of_vits = re.findall(r'"(\w+_mixer)"', (_HERE / "nn" / "vit.py").read_text(encoding="utf-8"))
    registered = {*_of_our_networks()[0], *of_vits}
    mentioned = set(registered)
    for file in (*_timms_models(), _HERE / "nn" / "vit.py"):
        source = file.read_text(encoding="utf-8")
        registered.update(re.findall(r"^@register_model\ndef (\w+)\(", source, re.MULTILINE))
        mentioned.update(re.findall(r"""^def (\w+)\(""", source, re.MULTILINE))
        mentioned.update(re.findall(r"""['"]([\w.]+)['"]""", source))
    return frozenset(registered), frozenset(mentioned)


@cache
def _of_all_arguments() -> frozenset[str]:
    """Every word of timm's and our networks' sources: what is none of them is no argument."""
    files = (*_timms_models(), _HERE / "nn" / "vit.py")
    return COMMON_OPTIONS.union(*(re.findall(r"\b[a-zA-Z]\w*", file.read_text(encoding="utf-8")) for file in files))


def _timms_models() -> list[Path]:
    timm = importlib.util.find_spec("timm")
    folders = (timm and timm.submodule_search_locations) or ()
    return [file for folder in folders for file in sorted(Path(folder, "models").glob("*.py"))]


@cache
def _of_our_networks() -> tuple[frozenset[str], frozenset[str]]:
    """The names in `models.CONFIGS`, and the fields of NetworkConfig with what they were called once."""
    names = re.findall(r'^    "(\w+)": ', (_HERE / "models.py").read_text(encoding="utf-8"), re.MULTILINE)
    fields: set[str] = set()
    for node in ast.walk(_parsed("nn/stages.py")):
        if isinstance(node, ast.ClassDef) and node.name == "NetworkConfig":
            fields |= {part.target.id for part in node.body if isinstance(part, ast.AnnAssign)}  # type: ignore[union-attr]
    return frozenset(names), frozenset(fields | {"widths", "patches"})


@cache
def _of_affinities() -> tuple[list[str], list[str]]:
    """The patterns of all words that the registry has from the start, and examples of them."""
    templates, examples = [], []
    for node in ast.walk(_parsed("affinity/registry.py")):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            function, arguments = node.value.func, node.value.args
            if isinstance(function, ast.Name) and function.id == "register_affinity":
                template, *others = [
                    part.value
                    for part in ast.walk(ast.List(arguments))
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                ]
                templates.append(pattern_of(template))
                examples += others or [template]
    return templates, examples


def _parsed(file: str) -> ast.AST:
    return ast.parse((_HERE / file).read_text(encoding="utf-8"))
