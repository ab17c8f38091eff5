"""A comparison of seconds: digits, a network of 20,000 parameters, two epochs."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from contagg.cli import main

RECIPE: dict[str, Any] = {
    "task": "classification",
    "model": {
        "name": "container_light_tiny",
        "image_size": 16,
        "channels": 1,
        "options": {
            "affinity": "dwconv3",
            "embed_dims": [8, 8, 16, 32],
            "patch_sizes": [2, 2, 2, 2],
            "depths": [1, 1, 1, 1],
        },
    },
    "data": {"name": "digits", "fraction": 0.04},
    "augmentation": {"crop": "padded", "padding": 2, "auto_augment": None, "mixup": 0.0, "cutmix": 0.0},
    "optimization": {"epochs": 2, "warmup_epochs": 0, "batch_size": 20, "lr": 0.003, "lr_batch_size": None},
    "run": {"folder": "unused", "workers": 0, "accelerator": "cpu", "loggers": []},
}
"""Three batches an epoch of 60 images."""


def written(folder: Path, recipe: dict[str, Any] = RECIPE) -> str:
    """The recipe's file."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return str(path)


def rows(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Those of runs.json, by arm and seed."""
    content = json.loads((folder / "runs.json").read_text())
    return {(row["arm"], row["seed"]): row for row in content["rows"]}


def compare(recipe: str, folder: Path, *options: str) -> None:
    """`contagg compare`, as it is typed."""
    main(["compare", "-c", recipe, "-o", str(folder), *options])


def fail(recipe: str, folder: Path, *options: str) -> str:
    """How it leaves where it does not end well."""
    with pytest.raises(SystemExit) as leave:
        compare(recipe, folder, *options)
    return str(leave.value.code)
