"""Runs in processes of their own."""

from pathlib import Path

import pytest
from fit_processes import Runs


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The last training state of an uninterrupted run."""
    runs = Runs(tmp_path_factory.mktemp("whole"))
    assert runs.fit("run") == 0, runs.output
    return runs.state("run")
