"""The confusion matrix: counts in the table, and a picture for few, many and very many classes."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from contagg.classification.confusion import confusion_figure, write_confusion
from contagg.errors import UserError


def test_table_and_picture(tmp_path: Path) -> None:
    counts = torch.tensor([[5, 1, 0], [0, 0, 0], [2, 0, 7]])
    picture = write_confusion(tmp_path / "figures", counts, ["cat", "dog", "a, b"])
    with (tmp_path / "figures" / "confusion.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0][1:] == ["cat", "dog", "a, b"]
    assert [row[1:] for row in rows[1:]] == [["5", "1", "0"], ["0", "0", "0"], ["2", "0", "7"]]
    assert min(Image.open(picture).size) > 300


@pytest.mark.parametrize(("classes", "numbers"), [(3, 3), (20, 20), (21, 0), (150, 0)])
def test_small_ones_say_their_counts(classes: int, numbers: int) -> None:
    figure = confusion_figure(np.eye(classes, dtype=int) * 4, [f"class {number}" for number in range(classes)])
    axes = figure.axes[0]
    assert len(axes.texts) == numbers
    assert axes.get_title() == f"0 of {4 * classes} images taken for another class"
    assert bool(axes.get_xticklabels()[0].get_text().startswith("class")) == (classes <= 60)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_confusion(tmp_path / "file", torch.eye(2, dtype=torch.long), ["a", "b"])
