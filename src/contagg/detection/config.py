"""What a detection recipe says. Needs no torch: a recipe is checked first."""

from dataclasses import dataclass, field
from typing import Any, Literal

from contagg.arguments import require_model
from contagg.checkpoints.options import check_name, check_options
from contagg.config import MUTABLE_ON_RESUME, require, require_path
from contagg.data.coco.config import CocoDataConfig, ResizingConfig
from contagg.detection.detr.config import SetConfig
from contagg.training.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """Which detector on which backbone.

    Attributes:
        detector: retinanet, mask_rcnn (boxes and masks), detr, deformable_detr or smca_detr.
        backbone: Of ours or timm's, with features at strides 4 to 32, or for the last three at `sets.stride`.
        init_from: A weights file of the backbone: a run's, timm's, the released one.
        pretrained: Let timm fetch its weights of the backbone.
        norm: frozen keeps the backbone's BatchNorm as it was loaded, statistics and affine; train trains it.
        checkpointing: Recompute the backbone's blocks in the backward pass, for less memory.
        pyramid_channels: Width of the feature pyramid and the heads.
        anchor_size: Of the smallest anchors, in pixels; each level doubles it.
        proposals: Regions of an image that Mask R-CNN looks at; training chooses from twice as many.
        sampled_proposals: Of these, those that a training step learns from.
        sets: What DETR, Deformable DETR and SMCA-DETR are made of, and learn by.
        drop_path: Rate of stochastic depth in the backbone's last block.
        options: What else the backbone's constructor takes.
    """

    detector: Literal["retinanet", "mask_rcnn", "detr", "deformable_detr", "smca_detr"]
    backbone: str = "container_light"
    init_from: str | None = None
    pretrained: bool = False
    norm: Literal["frozen", "train"] = "frozen"
    checkpointing: bool = field(default=False, metadata=MUTABLE_ON_RESUME)
    pyramid_channels: int = 256
    anchor_size: int = 32
    proposals: int = 1000
    sampled_proposals: int = 512
    sets: SetConfig = field(default_factory=SetConfig)
    drop_path: float = 0.1
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("pyramid_channels", "anchor_size", "proposals", "sampled_proposals"):
            require(getattr(self, name) >= 4, f"model.{name} must be at least 4, not {getattr(self, name)}")
        require(0 <= self.drop_path < 1, f"model.drop_path must lie in [0, 1), not {self.drop_path}")
        for option, name in {"drop_path_rate": "drop_path", "pretrained": "pretrained"}.items():
            require(option not in self.options, f"model.options.{option}: use model.{name}")
        check_name(self.backbone, "model.backbone")
        check_options(self.options, "model.options")
        require(not (self.init_from and self.pretrained), "model.init_from and model.pretrained: give one of them")
        require(
            self.norm == "train" or bool(self.init_from) or self.pretrained,
            "model.norm is frozen, but there is nothing to freeze: give model.init_from a file of the backbone's "
            "weights (or model.pretrained true), or set model.norm to train",
        )

    def check_references(self) -> None:
        """UserError for a backbone that does not exist, or weights that are not there."""
        require_model(self.backbone, "model.backbone")
        require_path(self.init_from, "model.init_from")


@dataclass(frozen=True, kw_only=True)
class StepOptimizationConfig:
    """AdamW whose rate warms up, then drops in steps (A.2, A.3).

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images a device takes at once. The paper: 8 devices with 2 each.
        accumulate: Batches whose gradients are added before a step.
        learning_rate: After the warm-up, whatever the total batch.
        drop_epochs: Where the rate is multiplied by drop_factor; fractions of epochs are allowed.
        drop_factor: See drop_epochs.
        warmup_steps: Steps of linear warm-up.
        warmup_factor: Where the warm-up begins, by learning_rate.
        backbone_factor: The backbone's rate by learning_rate.
        sampling_factor: Likewise that of Deformable DETR's reference points and sampling offsets.
        weight_decay: See decays.
        decays: matrices (and kernels) alone, not norms, biases and gates; or all, as DETR and what followed it have it.
        betas, epsilon: AdamW's.
        clip_gradient_norm: Largest norm of the gradient; null does not clip.
        average_decay: Decay of a moving average of the weights, which is then validated; null is none.
    """

    epochs: int = 12
    batch_size: int = 2
    accumulate: int = 1
    learning_rate: float = 1e-4
    drop_epochs: tuple[float, ...] = (8, 11)
    drop_factor: float = 0.1
    warmup_steps: int = 500
    warmup_factor: float = 0.001
    backbone_factor: float = 1.0
    sampling_factor: float = 1.0
    weight_decay: float = 0.05
    decays: Literal["matrices", "all"] = "matrices"
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    clip_gradient_norm: float | None = None
    average_decay: float | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            value = getattr(self, name)
            require(value >= 1, f"optimization.{name} must be at least 1, not {value}")
        for name in ("learning_rate", "epsilon", "clip_gradient_norm", "drop_factor", "warmup_factor"):
            value = getattr(self, name)
            require(value is None or value > 0, f"optimization.{name} must be above 0, not {value}")
        for name in ("warmup_steps", "weight_decay", "backbone_factor", "sampling_factor"):
            value = getattr(self, name)
            require(value >= 0, f"optimization.{name} must not be negative, but is {value}")
        drops = list(self.drop_epochs)
        require(
            drops == sorted(drops) and all(0 < drop < self.epochs for drop in drops),
            f"optimization.drop_epochs {drops} must ascend and lie above 0 and below optimization.epochs {self.epochs}",
        )
        require(all(0 <= beta < 1 for beta in self.betas), f"optimization.betas must lie in [0, 1), not {self.betas}")
        decay = self.average_decay
        require(decay is None or 0 < decay < 1, f"optimization.average_decay must lie between 0 and 1, not {decay}")


@dataclass(frozen=True, kw_only=True)
class DetectionRecipe:
    """Learn to find things and, with Mask R-CNN, to outline them (Sec. 4.2 and 4.3, appendix A.2 and A.3).

    Attributes:
        task: detection.
        model: Which detector on which backbone.
        data: Which images.
        augmentation: How large they are, and how they are varied.
        optimization: How long, how fast.
        run: Where and how.
    """

    task: Literal["detection"]
    model: DetectorConfig
    data: CocoDataConfig
    augmentation: ResizingConfig = field(default_factory=ResizingConfig)
    optimization: StepOptimizationConfig = StepOptimizationConfig()
    run: RunConfig
