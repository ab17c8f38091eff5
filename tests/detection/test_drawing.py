from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from contagg.detection.drawing import save_drawing


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [(40, 30), (20, 3000), (3000, 20)])
def test_strips_are_drawn_too(size: tuple[int, int], tmp_path: Path) -> None:
    found = {
        "boxes": torch.tensor([[2.0, 3.0, 17.0, 19.0]]),
        "scores": torch.tensor([0.9]),
        "labels": torch.tensor([0]),
        "masks": torch.ones(1, 1, 28, 28),
    }
    path = tmp_path / "picture.png"
    save_drawing(path, [np.zeros((*size, 3), np.uint8)], [found], ["bag"], 0.5)
    with Image.open(path) as picture:
        assert min(picture.size) >= 100 and max(picture.size) < 4000
        assert np.asarray(picture.convert("RGB")).std() > 1
