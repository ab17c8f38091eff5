"""A DINO run of seconds: digits, a network of four small blocks, everything random turned on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_recipes import DINO


@pytest.fixture
def recipe_file(tmp_path: Path) -> Callable[..., Path]:
    """Write the recipe with other values, by dotted name."""

    def write(**changes: Any) -> Path:
        content = yaml.safe_load(yaml.safe_dump(DINO))
        content["run"]["folder"] = str(tmp_path / "run")
        for name, value in changes.items():
            section, _, key = name.partition("__")
            content[section][key] = value
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write
