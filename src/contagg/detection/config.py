"""What a detection recipe says. Needs no torch: a recipe is checked first."""

from dataclasses import field
from typing import Annotated, Any, Literal

from contagg.checkpoints.locate import require_weights
from contagg.checkpoints.options import check_name, check_options
from contagg.config import MUTABLE_ON_RESUME, Count, Range, Rate, require, section
from contagg.data.coco.config import CocoDataConfig, ResizingConfig
from contagg.detection.detr.config import SetConfig
from contagg.names import require_model
from contagg.training.config import OptimizationConfig, RunConfig

AtLeast4 = Annotated[int, Range(4)]


@section("model.")
class DetectorConfig:
    """Which detector on which backbone.

    Attributes:
        detector: retinanet, mask_rcnn (boxes and masks), detr, deformable_detr or smca_detr.
        backbone: Of ours or timm's, with features at strides 4 to 32, or for the last three at `detr.stride`.
        init_weights: Weights to begin from: a classifier's for the backbone (a run's, timm's, the released one), or a
            detector's, of which all that fits is taken.
        init_ema: Take the moving average of a checkpoint that has one beside the network.
        pretrained: Let timm fetch its weights of the backbone.
        norm: frozen keeps the backbone's BatchNorm as it was loaded, statistics and affine; train trains it.
        checkpointing: Recompute the backbone's blocks in the backward pass, for less memory.
        pyramid_channels: Width of the feature pyramid and the heads.
        anchor_size: Of the smallest anchors, in pixels; each level doubles it.
        proposals: Regions of an image that Mask R-CNN looks at; training chooses from twice as many.
        sampled_proposals: Of these, those that a training step learns from.
        detections_per_image: That are kept, the best; null keeps 100, and of DETR and SMCA-DETR as many as there are
            queries, as their authors do. COCO's evaluation counts 100 of each category.
        detr: What DETR, Deformable DETR and SMCA-DETR are made of, and learn by.
        drop_path: Rate of stochastic depth in the backbone's last block.
        options: What else the backbone's constructor takes.
    """

    detector: Literal["retinanet", "mask_rcnn", "detr", "deformable_detr", "smca_detr"]
    backbone: str = "container_light"
    init_weights: str | None = None
    init_ema: bool = False
    pretrained: bool = False
    norm: Literal["frozen", "train"] = "frozen"
    checkpointing: bool = field(default=False, metadata=MUTABLE_ON_RESUME)
    pyramid_channels: AtLeast4 = 256
    anchor_size: AtLeast4 = 32
    proposals: AtLeast4 = 1000
    sampled_proposals: AtLeast4 = 512
    detections_per_image: Count | None = None
    detr: SetConfig = field(default_factory=SetConfig)
    drop_path: Rate = 0.1
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for option, name in {"drop_path_rate": "drop_path", "pretrained": "pretrained"}.items():
            require(option not in self.options, f"model.options.{option}: use model.{name}")
        check_name(self.backbone, "model.backbone")
        check_options(self.options, "model.options")
        both = self.init_weights and self.pretrained
        require(not both, "model.init_weights and model.pretrained: give one of them")
        require(
            self.norm == "train" or bool(self.init_weights) or self.pretrained,
            "model.norm is frozen, but there is nothing to freeze: give model.init_weights a file of the backbone's "
            "weights (or model.pretrained true), or set model.norm to train",
        )

    def check_references(self) -> None:
        """UserError for a backbone that does not exist, or weights that are not there."""
        require_model(self.backbone, self.options, "model.backbone")
        require_weights(self.init_weights, "model.init_weights", "" if self.pretrained else self.backbone)


DETECTION_DEFAULTS = OptimizationConfig(
    epochs=12,
    batch_size=2,
    lr=1e-4,
    lr_batch_size=None,
    schedule="step",
    milestones=(8, 11),
    warmup_epochs=0,
    warmup_steps=500,
    warmup_lr=1e-7,
)
"""A.2 and A.3: 8 devices with 2 images each, a rate that drops in steps, whatever the total batch."""


@section("")
class DetectionRecipe:
    """Learn to find things and, with Mask R-CNN, to outline them (Sec. 4.2 and 4.3, appendix A.2 and A.3).

    Attributes:
        task: detection.
        model: Which detector on which backbone.
        data: Which images.
        augmentation: How large they are, and how they are varied.
        optimization: How long, how fast.
        run: Where and how.
        validate_every: Epochs between validations, each of which takes as long as its images; the last epoch's is one.
    """

    task: Literal["detection"]
    model: DetectorConfig
    data: CocoDataConfig
    augmentation: ResizingConfig = field(default_factory=ResizingConfig)
    optimization: OptimizationConfig = DETECTION_DEFAULTS
    run: RunConfig
    validate_every: int = 1

    def __post_init__(self) -> None:
        epochs = self.optimization.epochs
        require(
            self.validate_every >= 1 and epochs % self.validate_every == 0,
            f"validate_every {self.validate_every} must divide optimization.epochs {epochs}, so that the last epoch is "
            "validated",
        )
        require(
            self.optimization.sampling_lr_multiplier == 1 or self.model.detector == "deformable_detr",
            f"optimization.sampling_lr_multiplier is for deformable_detr, and model.detector is {self.model.detector}",
        )
