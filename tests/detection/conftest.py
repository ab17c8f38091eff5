"""A small composed data set that needs no package beside scikit-learn."""

from pathlib import Path

import pytest

from contagg.detection.compose import Composition, write_split

COMPOSITION = Composition(source="digits", size=96, classes=4, seed=5)
SPLITS = {"train": 30, "val": 11}


@pytest.fixture(scope="session")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("composed")
    for split, count in SPLITS.items():
        write_split(COMPOSITION, folder, split, count, workers=0)
    return folder
