"""The recipe that nobody has run to its end takes a real step: container_next on ImageNet's form of folders."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contagg.cli import main

RECIPE = Path(__file__).parents[2] / "recipes" / "imagenet" / "container_next.yaml"
HERE = {  # what one CPU has; the rest is the recipe's: 224 pixels, bf16, augmentation, repeats, clipping, average
    "optimization.batch_size": 2,
    "optimization.epochs": 1,
    "optimization.warmup_epochs": 0,
    "run.devices": 1,
    "run.strategy": "auto",
    "run.accelerator": "cpu",
    "run.workers": 0,
}


@pytest.mark.slow  # 40 s: all of 20M parameters in a batch of the recipe
def test_container_next_steps_with_its_recipe(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for split, count in (("train", 2), ("val", 1)):
        for name in ("n01440764", "n01443537"):
            for number in range(count):
                path = tmp_path / "imagenet" / split / name / f"{number}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(random.integers(0, 256, (53, 61, 3), dtype=np.uint8)).save(path)
    given = HERE | {"data.root": tmp_path / "imagenet", "run.folder": tmp_path / "run"}
    main(["fit", "-c", str(RECIPE), *(str(word) for key, value in given.items() for word in (f"--{key}", value))])
    with (tmp_path / "run" / "metrics.csv").open() as file:
        [row] = csv.DictReader(file)
    assert int(row["step"]) >= 1 and 0 < float(row["train_loss"]) < 2 and float(row["validation_loss_raw"]) < 2
