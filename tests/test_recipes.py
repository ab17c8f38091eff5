"""Every recipe is read, and says in its head how to run it."""

from pathlib import Path

import pytest

from contagg.tasks import recipes
from contagg.training.recipe_file import read_recipe

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_recipe_is_right_and_says_its_command(path: Path) -> None:
    recipe = read_recipe(["-c", str(path)], recipes())
    assert recipe.task in recipes()
    head = path.read_text().split("task:")[0]
    assert f" fit -c {path.relative_to(ROOT)}" in head


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 8
