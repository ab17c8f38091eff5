"""A task whose truth is known: two marks far apart decide the class, and one block alone can look that far."""

import json
from pathlib import Path

import pytest
import yaml
from marks import SIDE, write_marks

from contagg.cli import main

SEEDS = range(5)
NEAR, FAR = "window2/16 + identity", "attention/16 + identity"
"""What cannot bring one mark to the other: windows of two tokens, and nothing static; and what can."""


def recipe(folder: Path, far_apart: bool) -> Path:
    """Four blocks on one grid of 6 x 6 tokens, of which the third alone looks far."""
    content = {
        "task": "classification",
        "model": {
            "name": "container_tiny", "image_size": SIDE, "channels": 1, "drop_path": 0.0,
            "options": {
                "embed_dims": [32] * 4, "patch_sizes": [2, 1, 1, 1], "depths": [1] * 4, "mlp_ratios": [2] * 4,
                "affinity": [NEAR, NEAR, FAR, NEAR],
            },
        },
        "data": {"name": "folder", "root": str(write_marks(folder / "images", far_apart))},
        "label_smoothing": 0.0,
        "augmentation": {
            "crop": "padded", "padding": 0, "horizontal_flip": 0.0, "auto_augment": None, "color_jitter": 0.0,
            "erasing": 0.0, "mixup": 0.0, "cutmix": 0.0,
        },
        "optimization": {"epochs": 8, "batch_size": 32, "lr": 0.003, "lr_batch_size": None, "warmup_epochs": 1},
        "run": {"folder": str(folder / "run"), "accelerator": "cpu", "workers": 0, "loggers": []},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return folder / "recipe.yaml"


def placed(path: Path, seed: int) -> tuple[list[str], float]:
    """The blocks that stay open, and the accuracy in the end; the budget has room for one or two."""
    run = path.parent / f"run_{seed}"
    main(["place", "-c", str(path), "--budget", "0.84", "--run.seed", str(seed), "--run.folder", str(run)])
    accuracy = float((run / "metrics.csv").read_text().splitlines()[-1].split(",")[-1])
    return json.loads((run / "placement.json").read_text())["chosen"], accuracy


@pytest.mark.slow
def test_the_one_block_that_is_needed_is_found_with_every_seed(tmp_path: Path) -> None:
    path = recipe(tmp_path, far_apart=True)
    found = [placed(path, seed) for seed in SEEDS]
    assert [chosen for chosen, _ in found] == [["3.1"]] * len(SEEDS)
    assert min(accuracy for _, accuracy in found) > 0.95


@pytest.mark.slow
def test_where_none_is_needed_all_are_closed(tmp_path: Path) -> None:
    path = recipe(tmp_path, far_apart=False)
    found = [placed(path, seed) for seed in SEEDS]
    assert [chosen for chosen, _ in found] == [[]] * len(SEEDS)
    assert min(accuracy for _, accuracy in found) > 0.95
