"""The recipe of a classification run. Needs no torch: a recipe is checked first."""

from dataclasses import field
from typing import Any, Literal

from contagg.arguments import require_model
from contagg.checkpoints.locate import require_weights
from contagg.checkpoints.options import check_name, check_options
from contagg.config import Count, Rate, require, section
from contagg.data.config import AugmentationConfig, DataConfig
from contagg.training.config import OptimizationConfig, RunConfig


@section("model.")
class ModelConfig:
    """Which network.

    Attributes:
        name: Of ours or timm's.
        image_size: Height and width in pixels that images are given to it in.
        channels: Of the images: 3, or 1 for grey.
        drop_path: Rate of stochastic depth in the last block.
        init_weights: A weights file, run folder or checkpoint to begin from: ours, timm's, DeiT's or Lightning's,
            without a classifier for other classes; or a checkpoint of DINO, whose teacher's backbone is taken.
        init_ema: Take the moving average of a checkpoint that has one beside the network.
        probe: Train the classifier alone, on features that stay as they are (a linear probe).
        options: What else the network's constructor takes, such as `affinity` for ours.
    """

    name: str
    image_size: Count = 224
    channels: Literal[1, 3] = 3
    drop_path: Rate = 0.1
    init_weights: str | None = None
    init_ema: bool = False
    probe: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        probed = not self.probe or self.init_weights is not None
        require(probed, "model.probe needs model.init_weights: features to probe")
        taken = {"img_size": "image_size", "in_chans": "channels", "drop_path_rate": "drop_path"}
        for option, name in taken.items():
            require(option not in self.options, f"model.options.{option}: use model.{name}")
        check_name(self.name, "model.name")
        check_options(self.options, "model.options")
        require("num_classes" not in self.options, "model.options.num_classes: the data say how many classes there are")

    def check_references(self) -> None:
        """UserError for a network that does not exist, or weights that are not there."""
        require_model(self.name, "model.name")
        require_weights(self.init_weights, "model.init_weights")


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
