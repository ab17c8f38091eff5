"""Every recipe is read, and says in its head how to run it."""

from pathlib import Path

import pytest

from contagg.errors import UserError
from contagg.tasks import recipes
from contagg.training.recipe_file import PACKAGED, read_recipe

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_recipe_is_right_and_says_its_command(path: Path) -> None:
    recipe = read_recipe(["-c", str(path)], recipes())
    assert recipe.task in recipes()
    head = path.read_text().split("task:")[0]
    assert f" fit -c {path.relative_to(ROOT)}" in head


@pytest.mark.parametrize("path", sorted(PACKAGED.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_in_the_package_is_called_by_its_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_recipe(["-c", path.stem], recipes()) == read_recipe(["-c", str(path)], recipes())
    assert f" fit -c {path.stem}\n" in path.read_text().split("task:")[0]


def test_a_file_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digits").write_text("task: [")
    with pytest.raises(UserError, match="digits is not readable YAML"):
        read_recipe(["-c", "digits"], recipes())
    with pytest.raises(UserError, match=r"there is no recipe digit\. Did you mean 'digits'\?"):
        read_recipe(["-c", "digit"], recipes())


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 8
