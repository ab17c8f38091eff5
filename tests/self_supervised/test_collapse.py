"""Collapse in both of its kinds, seen in the loss's own targets, and a picture of a run."""

import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from contagg.errors import UserError
from contagg.self_supervised.collapse import collapse, draw_teacher
from contagg.self_supervised.loss import DinoLoss, entropy

OUTPUTS = 37


def kind_of(teacher: torch.Tensor, temperature: float = 0.04) -> str | None:
    seen = entropy(DinoLoss(OUTPUTS).targets(teacher, temperature))
    return collapse(seen.each.item(), seen.information.item(), OUTPUTS)


def test_targets_that_tell_images_apart_are_no_collapse() -> None:
    assert kind_of(torch.nn.functional.one_hot(torch.arange(20) % 5, OUTPUTS).float()) is None
    assert kind_of(torch.randn(20, OUTPUTS, generator=torch.Generator().manual_seed(0))) is None


def test_uniform_targets_one_prototype_and_one_target_for_all_are_told_apart() -> None:
    assert "uniform: entropy 3.611 of at most 3.611" in str(kind_of(torch.zeros(20, OUTPUTS)))
    assert "one prototype" in str(kind_of(torch.eye(OUTPUTS)[3].expand(20, -1)))
    assert "the same target" in str(kind_of(0.06 * torch.eye(OUTPUTS)[:3].sum(0).expand(20, -1)))


def test_entropies_known_on_paper() -> None:
    seen = entropy(torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]))
    assert seen.each.item() == pytest.approx(math.log(2))
    assert seen.mean.item() == pytest.approx(math.log(4))
    assert seen.information.item() == pytest.approx(math.log(2))


def test_a_run_is_drawn_within_its_bounds(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(
        "epoch,step,train_teacher_entropy,train_teacher_information,accuracy_knn10\n1,7,3.0,0.5,\n2,14,2.0,1.0,0.5\n"
    )
    with Image.open(draw_teacher(tmp_path, OUTPUTS)) as picture:
        assert picture.size[0] > 1200
    (tmp_path / "metrics.csv").write_text("epoch,step,accuracy\n1,7,0.5\n")
    with pytest.raises(UserError, match="is no run of DINO"):
        draw_teacher(tmp_path, OUTPUTS)
