"""The recipe of a classification run. Needs no torch: a recipe is checked first."""

from dataclasses import field
from typing import Literal

from contagg.config import Rate, require, section
from contagg.data.config import AugmentationConfig, DataConfig
from contagg.training.config import ModelConfig, OptimizationConfig, RunConfig


@section("")
class ClassificationRecipe:
    """Learn to tell classes of images apart (Sec. 4.1, appendix A.1).

    Attributes:
        task: classification.
        model: Which network.
        data: Which images.
        augmentation: How they are varied.
        optimization: How long, how fast.
        label_smoothing: Probability spread over all classes.
        run: Where and how.
    """

    task: Literal["classification"]
    model: ModelConfig
    data: DataConfig = field(default_factory=DataConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)
    label_smoothing: Rate = 0.1
    run: RunConfig

    def __post_init__(self) -> None:
        require(
            self.optimization.sampling_lr_multiplier == 1,
            "optimization.sampling_lr_multiplier is for task detection with model.detector deformable_detr",
        )
        self.augmentation.check_batch(self.optimization.batch_size)
