"""A DINO run of seconds: digits, a network of four small blocks, everything random turned on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

RECIPE: dict[str, Any] = {
    "task": "dino",
    "model": {
        "name": "container_light_tiny",
        "image_size": 16,
        "channels": 1,
        "drop_path": 0.3,
        "options": {"embed_dims": [8, 8, 16, 32], "patch_sizes": [2, 2, 2, 1], "depths": [1, 1, 1, 2]},
    },
    "data": {"name": "digits", "fraction": 0.07},
    "crops": {"local_size": 8, "local_count": 2, "blur_sigma": [0.1, 1.0]},
    "dino": {"outputs": 32, "hidden": 24, "bottleneck": 8, "teacher_momentum": 0.9},
    "optimization": {"epochs": 3, "warmup_epochs": 1, "batch_size": 14, "lr": 0.003, "lr_batch_size": None},
    "knn": {"every": 1, "neighbours": [3, 10], "crop_fraction": 1.0},
    "run": {"workers": 0, "accelerator": "cpu", "checkpoint_minutes": 0},
}
"""Seven batches an epoch of 100 images; a state is saved after every step."""


@pytest.fixture
def recipe_file(tmp_path: Path) -> Callable[..., Path]:
    """Write the recipe with other values, by dotted name."""

    def write(**changes: Any) -> Path:
        content = yaml.safe_load(yaml.safe_dump(RECIPE))
        content["run"]["folder"] = str(tmp_path / "run")
        for name, value in changes.items():
            section, _, key = name.partition("__")
            content[section][key] = value
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write
