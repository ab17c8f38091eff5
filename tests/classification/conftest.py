"""A weights file to try commands on."""

from pathlib import Path

import pytest
from small_network import save_small_network


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "checkpoints" / "best.safetensors"
    save_small_network(path)
    return path
