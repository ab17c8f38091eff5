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
    assert optimization.epochs == 12 and optimization.drop_epochs == (8, 11) and optimization.drop_factor == 0.1
    assert optimization.learning_rate == 1e-4 and optimization.backbone_factor == 1
    assert optimization.weight_decay == 0.05 and optimization.warmup_steps == 500
    assert optimization.batch_size * recipe.run.world_size * optimization.accumulate == 16
    assert optimization.clip_gradient_norm is None and optimization.average_decay is None
    assert augmentation.short_sides == (800,) and augmentation.long_side == 1333
    assert augmentation.horizontal_flip == 0.5 and augmentation.crop == 0
