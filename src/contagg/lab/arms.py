"""What is compared: a recipe, and arms that change some of its keys. Read and checked before torch is imported."""

import argparse
import hashlib
import json
import re
from collections.abc import Container, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from contagg.arguments import load
from contagg.config import as_dict, check_references, flatten, mutable_keys
from contagg.errors import UserError, named, printable, shortened
from contagg.output import lossy_output
from contagg.tasks import recipes
from contagg.training.recipe_file import read_recipe
from contagg.yaml_file import parse_yaml

AFFINITY = "model.options.affinity"
OPTIONS = ("affinity", "arm", "seeds", "match", "metric", "jobs", "output", "rounds", "dry-run", "report")
NOT_COMPARED = ("run.folder", "run.seed")
_LONGEST_NAME = 80


@dataclass(frozen=True)
class Arm:
    """One of the things that are compared.

    Attributes:
        name: As on the command line.
        recipe: Whole.
        given: The keys and values that were asked for.
        changes: Dotted keys in which it differs from the comparison's recipe, and its values.
    """

    name: str
    recipe: Any
    given: Mapping[str, Any]
    changes: Mapping[str, Any]

    @property
    def folder(self) -> str:
        """The name as a folder's; where it had to be changed, with a hash of it, so that no two share one.

        >>> Arm("dwconv5", None, {}, {}).folder, Arm("attention/64 + dwconv5", None, {}, {}).folder
        ('dwconv5', 'attention_64_dwconv5-ebb1d1')
        """
        plain = re.sub(r"[^a-z0-9.-]+", "_", self.name.lower()).strip("_.")
        return plain if plain == self.name else f"{plain}-{hashlib.sha256(self.name.encode()).hexdigest()[:6]}"

    def of_seed(self, seed: int, folder: Path) -> Any:
        """The recipe with another seed, in a folder of its own."""
        return of_seed(self.recipe, seed, folder)


@dataclass(frozen=True)
class Arms:
    """A recipe, as the words of a command line, and its arms.

    Attributes:
        words: `-c FILE --key value ...`.
        recipe: What they say.
        arms: The first is what the others are compared with.
    """

    words: tuple[str, ...]
    recipe: Any
    arms: tuple[Arm, ...]

    def __getitem__(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)

    @property
    def names(self) -> list[str]:
        """Of the arms, in their order."""
        return [arm.name for arm in self.arms]

    def check(self) -> None:
        """UserError for files, networks or words that are named and are not there."""
        check_references(self.recipe)
        for arm in self.arms:
            with named(f"arm {arm.name!r}"):
                check_references(arm.recipe)

    def check_networks(self) -> None:
        """As `check` of the arms' networks alone: rows are reported without data."""
        for arm in self.arms:
            with named(f"arm {arm.name!r}"):
                check_references(arm.recipe.model)

    def having(self, names: Container[str]) -> "Arms":
        """Those of these names."""
        return replace(self, arms=tuple(arm for arm in self.arms if arm.name in names))

    def changed(self, arm: Arm, changes: Mapping[str, Any]) -> "Arms":
        """These, with further changes of one arm. UserError for keys or values that are wrong."""
        new = _arm(self.words, self.recipe, arm.name, {**arm.given, **changes})
        return replace(self, arms=tuple(new if other is arm else other for other in self.arms))


def of_seed(recipe: Any, seed: int, folder: Path) -> Any:
    """A recipe with another seed, in another folder."""
    return replace(recipe, run=replace(recipe.run, seed=seed, folder=str(folder)))


def identity(recipe: Any) -> dict[str, Any]:
    """The dotted keys and values that make a recipe another one, its seed aside."""
    flat = flatten(as_dict(recipe))
    return {key: value for key, value in flat.items() if key not in mutable_keys(recipe) and key not in NOT_COMPARED}


def run(options: argparse.Namespace) -> None:
    """`contagg compare`."""
    arms = read_arms(options.recipe, options.arms)
    config = next((arms.words[at + 1] for at, word in enumerate(arms.words[:-1]) if word in ("-c", "--config")), "")
    folder = Path(options.output or Path("compare") / (Path(config).stem or arms.recipe.task))
    if not options.report:
        arms.check()
    trains = not (options.dry_run or options.report)
    with lossy_output() if trains else nullcontext():
        load("contagg.lab.comparison:compare")(arms, folder, options)


def read_arms(words: Sequence[str], given: Sequence[tuple[str, list[str]]]) -> Arms:
    """The recipe that words of a command line ask for, and arms of it.

    Args:
        words: `-c FILE --key value ...`.
        given: ("affinity", [word]) or ("arm", [name, key=value, ...]) of each.

    Raises:
        UserError: no arm, two of one name, a wrong key or value.
    """
    recipe = read_recipe(words, recipes(), also=OPTIONS)
    if not given:
        raise UserError("there is nothing to compare: give --affinity WORD ... or --arm NAME KEY=VALUE ...")
    if recipe.run.world_size > 1:
        raise UserError(f"compare makes each run in one process: run.devices x run.nodes is {recipe.run.world_size}")
    arms: list[Arm] = []
    for kind, parts in given:
        name, changes = (parts[0], _affinity(parts[0])) if kind == "affinity" else (parts[0], _changes(parts))
        _check_name(name)
        arms.append(_arm(words, recipe, name, changes))
    names = [arm.name for arm in arms]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"two arms are called {twice[0]!r}")
    for arm, other in combinations(arms, 2):
        if arm.recipe == other.recipe:
            raise UserError(
                f"the arms {arm.name!r} and {other.name!r} have the same keys and values, and so the same runs: "
                "give one of them others"
            )
    return Arms(tuple(words), recipe, tuple(arms))


def _arm(words: Sequence[str], recipe: Any, name: str, changes: Mapping[str, Any]) -> Arm:
    try:
        own = read_recipe([*words, *(f"--{key}={_written(value)}" for key, value in changes.items())], recipes())
    except UserError as error:
        raise UserError(f"arm {name!r}: {error}") from error
    if own.task != recipe.task:
        raise UserError(f"arm {name!r}: task is {own.task}, and the recipe's is {recipe.task}")
    if own.run.world_size > 1 or (own.run.folder, own.run.seed) != (recipe.run.folder, recipe.run.seed):
        raise UserError(f"arm {name!r}: run.folder, run.seed, run.devices and run.nodes are the comparison's to choose")
    before, after = identity(recipe), identity(own)
    keys = sorted(before.keys() | after.keys())
    return Arm(name, own, changes, {key: after.get(key) for key in keys if before.get(key) != after.get(key)})


def _written(value: Any) -> str:
    """A value as the command line has it: YAML in one line, which is JSON but for plain text."""
    return value if isinstance(value, str) else json.dumps(value)


def _affinity(word: str) -> dict[str, Any]:
    if word.lstrip().startswith("["):
        return {AFFINITY: parse_yaml(word, "--affinity")}
    return {AFFINITY: [part.strip() for part in word.split(",")] if "," in word else word}


def _changes(parts: Sequence[str]) -> dict[str, str]:
    name, *pairs = parts
    for pair in pairs:
        if "=" not in pair:
            raise UserError(f"arm {name!r}: {pair!r} is not KEY=VALUE, such as model.name=container_light_tiny")
    return {key.removeprefix("--"): value for key, _, value in (pair.partition("=") for pair in pairs)}


def _check_name(name: str) -> None:
    if len(name) > _LONGEST_NAME:
        raise UserError(
            f"the name of an arm, {shortened(name, _LONGEST_NAME)!r}, is longer than {_LONGEST_NAME} letters; "
            f"a long affinity takes another: --arm NAME '{AFFINITY}=[...]'"
        )
    if not name.strip() or printable(name) != name or "=" in name:
        raise UserError(f"the name of an arm, {name!r}, must be 1 to {_LONGEST_NAME} letters without '='")
