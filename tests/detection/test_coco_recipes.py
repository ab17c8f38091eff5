"""What appendix A.2 and A.3 say, in the recipes that train Table 4's rows."""

from pathlib import Path

import pytest

from contagg.tasks import recipes
from contagg.training.recipe_file import read_recipe

COCO = Path(__file__).parents[2] / "recipes/coco"


@pytest.mark.parametrize("detector", ["retinanet", "mask_rcnn"])
def test_the_recipe_is_the_papers(detector: str) -> None:
    recipe = read_recipe(["-c", str(COCO / f"{detector}_container_light.yaml")], recipes())
    model, optimization, augmentation = recipe.model, recipe.optimization, recipe.augmentation
    assert (model.detector, model.backbone, model.norm) == (detector, "container_light", "frozen")
    assert optimization.epochs == 12 and optimization.milestones == (8, 11) and optimization.gamma == 0.1
    assert optimization.lr == 1e-4 and optimization.lr_batch_size is None and optimization.backbone_lr_multiplier == 1
    assert optimization.weight_decay == 0.05 and optimization.warmup_steps == 500
    assert optimization.batch_size * recipe.run.world_size * optimization.accumulate == 16
    assert optimization.max_grad_norm is None and optimization.ema_decay is None
    assert augmentation.short_sides == (800,) and augmentation.long_side == 1333
    assert augmentation.horizontal_flip == 0.5 and augmentation.crop == 0
