"""A run goes on with its own recipe and data, wherever they lie by now, and with no others."""

import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from fit_processes import TINY, Runs
from PIL import Image
from test_faults import signalled_after_step

from contagg.classification import fit
from contagg.data.config import DataConfig
from contagg.data.sources import open_data


def test_resume_must_find_something(runs: Runs) -> None:
    assert runs.fit("run", "--run.resume", "must") == 2
    assert "run.resume is must, but" in runs.output
    assert "holds no training state to go on from" in runs.output


def test_another_recipe_is_refused_also_without_its_file(runs: Runs) -> None:
    assert runs.fit("run", meddle=signalled_after_step(3, signal.SIGTERM)) == 128 + signal.SIGTERM
    (runs.folder / "run" / "recipe.yaml").unlink()
    assert runs.fit("run", "--optimization.lr", "0.3") == 2
    assert "holds a run of another recipe: optimization.lr is 0.003 there and 0.3 here. Give" in runs.output


def a_folder_of_classes(root: Path, cats: int = 8) -> DataConfig:
    for split, count in (("train", 8), ("val", 4)):
        for name, images in (("cat", cats if split == "train" else count), ("dog", count)):
            (root / split / name).mkdir(parents=True)
            for number in range(images):
                pixels = np.full((16, 16), 10 * number, dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return DataConfig(name="folder", root=str(root))


def renamed(root: Path, split: str, *pairs: tuple[str, str]) -> None:
    for before, after in pairs:
        (root / split / before).rename(root / split / after)


OTHER_DATA: dict[str, tuple[Callable[[Path], None], str]] = {
    "a changed validation set": (lambda root: (root / "val/cat/0.png").unlink(), "7 validation images, before 8"),
    "another class name": (
        lambda root: [renamed(root, split, ("cat", "cow")) for split in ("train", "val")],
        "the classes differ: 2, before 2, by now without 'cat' and with 'cow'",
    ),
    "swapped labels": (
        lambda root: renamed(
            root, "train", ("cat/0.png", "x.png"), ("dog/0.png", "cat/0b.png"), ("x.png", "dog/0b.png")
        ),
        "2 training images were not there before, such as cat/0b.png",
    ),
    "fewer images": (lambda root: (root / "train/dog/7.png").unlink(), "of class 'dog' 7, before 8"),
}


@pytest.mark.parametrize("kind", OTHER_DATA)
def test_a_run_does_not_go_on_with_other_data(runs: Runs, kind: str) -> None:
    root = runs.folder / "data"
    a_folder_of_classes(root)
    change, message = OTHER_DATA[kind]
    recipe = TINY | {"data": {"root": str(root)}, "optimization": TINY["optimization"] | {"batch_size": 4}}
    runs.recipe.write_text(yaml.safe_dump(recipe))
    assert runs.fit("run", meddle=plain_data(signalled_after_step(3, signal.SIGTERM))) == 128 + signal.SIGTERM
    change(root)
    assert runs.fit("run", meddle=plain_data()) == 2
    assert "was made with other data: " in runs.output and message in runs.output, runs.output


def plain_data(meddle: Callable[[], None] = lambda: None) -> Callable[[], None]:
    """All that is held out is looked at, not the few that other runs here take."""

    def meddled() -> None:
        fit.open_data = open_data
        meddle()

    return meddled


def test_moved_but_equal_data_go_on(runs: Runs) -> None:
    recipe = TINY | {"optimization": TINY["optimization"] | {"batch_size": 4, "epochs": 2}}
    a_folder_of_classes(runs.folder / "data")
    runs.recipe.write_text(yaml.safe_dump(recipe | {"data": {"root": str(runs.folder / "data")}}))
    assert runs.fit("run", meddle=plain_data(signalled_after_step(3, signal.SIGTERM))) == 128 + signal.SIGTERM
    (runs.folder / "data").rename(runs.folder / "moved")
    assert runs.fit("run", "--data.root", str(runs.folder / "moved"), meddle=plain_data()) == 0, runs.output
