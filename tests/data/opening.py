"""Asking for data by a recipe's words."""

from pathlib import Path

import numpy as np
import pytest

from contagg.data.config import DataConfig
from contagg.data.sources import open_data
from contagg.errors import UserError


def folder(root: Path, **values: object) -> DataConfig:
    return DataConfig(name="folder", root=str(root), **values)  # type: ignore[arg-type]


def refused(config: DataConfig, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        open_data(config)
    assert "\n" not in str(caught.value)


def pixels(images: object) -> list[np.ndarray]:
    return [np.asarray(image) for image, _ in (images[index] for index in range(len(images)))]  # type: ignore
