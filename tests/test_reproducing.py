"""docs/reproducing.md names each key of a classification recipe: its true default, ImageNet's value, a source."""

import re
from pathlib import Path
from typing import Any

import yaml

from contagg.classification.recipe import ClassificationRecipe
from contagg.config import as_dict, defaults, flatten
from contagg.tasks import recipes
from contagg.training.recipe_file import _kinds, read_recipe
from contagg.yaml_file import PlainLoader

ROOT = Path(__file__).parent.parent
LINE = re.compile(r"^\| `([\w.]+)` \| (.*?) \| (.*?)\|\s*(.*?) *\|$", re.MULTILINE)
IMAGENET = read_recipe(["-c", str(ROOT / "recipes/imagenet/container_light.yaml")], recipes())


def said() -> dict[str, tuple[str, str, str]]:
    """Key -> default, ImageNet's value, source, as the document has them."""
    section = (ROOT / "docs/reproducing.md").read_text().split("\n## ")[1]
    return {
        key: (default.strip("` "), value.strip("` "), source) for key, default, value, source in LINE.findall(section)
    }


def values(tree: dict[str, Any]) -> dict[str, Any]:
    return {"model.options": tree["model"]["options"]} | flatten(tree)


def test_every_key_has_its_line_and_source() -> None:
    assert list(said()) == [key for key, _ in _kinds(ClassificationRecipe)]
    assert all(source for _, _, source in said().values())


def test_values_are_the_codes() -> None:
    default, imagenet = values(defaults(IMAGENET)), values(as_dict(IMAGENET))
    for key, (written_default, written_value, _) in said().items():
        if key in default:
            assert yaml.load(written_default, Loader=PlainLoader) == default[key], key
        else:
            assert written_default == "required", key
        if written_value:
            assert yaml.load(written_value, Loader=PlainLoader) == imagenet[key] != default.get(key), key
        else:
            assert imagenet[key] == default[key], key
