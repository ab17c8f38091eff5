"""The recipe of a DINO run (Sec. 4.5, appendix A.5). The defaults are the original's. Needs no torch."""

from dataclasses import field
from typing import Annotated, Literal

from contagg.config import (
    MUTABLE_ON_RESUME,
    Count,
    Fraction,
    NotEmpty,
    Positive,
    Probability,
    Range,
    Whole,
    require,
    section,
)
from contagg.data.config import CropsConfig, DataConfig
from contagg.training.config import ModelConfig, OptimizationConfig, RunConfig


@section("dino.")
class DinoConfig:
    """Head, loss and teacher.

    Attributes:
        outputs: Prototypes, which the head's last layer compares with.
        hidden: Width of the head's two hidden layers.
        bottleneck: Width of the head's third layer, whose output is normalized.
        student_temperature: Of the student's softmax.
        teacher_temperature: Of the teacher's, after its warm-up.
        teacher_warmup_temperature: Where the teacher's begins.
        teacher_warmup_epochs: Epochs in which it rises from there.
        teacher_momentum: Where the teacher's momentum begins; it ends at 1.
        center_momentum: Of the moving mean of the teacher's outputs.
        freeze_prototypes_epochs: Epochs in which the last layer stays as it is.
    """

    outputs: Annotated[int, Range(2)] = 65536
    hidden: Count = 2048
    bottleneck: Count = 256
    student_temperature: Positive = 0.1
    teacher_temperature: Positive = 0.04
    teacher_warmup_temperature: Positive = 0.04
    teacher_warmup_epochs: Whole = 0
    teacher_momentum: Probability = 0.996
    center_momentum: Probability = 0.9
    freeze_prototypes_epochs: Whole = 1


DINO_DEFAULTS = OptimizationConfig(
    epochs=100,
    batch_size=64,
    lr=5e-4,
    lr_batch_size=256,
    warmup_epochs=10,
    warmup_lr=0.0,
    warmup_prefix=True,
    min_lr=1e-6,
    weight_decay=0.04,
    weight_decay_end=0.4,
    max_grad_norm=3.0,
    grad_norm_of="tensor",
)
"""The original's."""


@section("knn.")
class KnnConfig:
    """How well classes can be told by the teacher's nearest training images, while it trains.

    Attributes:
        every: Epochs between; 0 is never, for images without classes.
        neighbours: The k; the first decides which weights are best.
        temperature: A neighbour votes with exp(cosine / temperature).
        crop_fraction: Part of the resized image that is looked at; 1 takes it whole.
        batch_size: Images at once.
    """

    every: Whole = field(default=20, metadata=MUTABLE_ON_RESUME)
    neighbours: Annotated[tuple[Count, ...], NotEmpty()] = (10, 20, 100, 200)
    temperature: Positive = 0.07
    crop_fraction: Fraction = 0.875
    batch_size: Count = field(default=128, metadata=MUTABLE_ON_RESUME)


@section("")
class DinoRecipe:
    """Learn without labels what a slow average of oneself sees in other crops of an image (DINO).

    Attributes:
        task: dino.
        model: Which network; drop_path is the student's alone. init_weights may be the original's checkpoint.
        data: Which images; their labels serve only the k nearest neighbours.
        crops: The views of an image.
        dino: Head, loss and teacher.
        optimization: How long, how fast.
        knn: What the teacher is judged by.
        run: Where and how.
    """

    task: Literal["dino"]
    model: ModelConfig
    data: DataConfig = field(default_factory=DataConfig)
    crops: CropsConfig = field(default_factory=CropsConfig)
    dino: DinoConfig = DinoConfig()
    optimization: OptimizationConfig = DINO_DEFAULTS
    knn: KnnConfig = KnnConfig()
    run: RunConfig

    def __post_init__(self) -> None:
        optimization = self.optimization
        require(optimization.accumulate == 1, "optimization.accumulate must be 1: DINO's teacher follows every batch")
        require(optimization.ema_decay is None, "optimization.ema_decay: DINO's teacher is an average itself")
        require(
            optimization.sampling_lr_multiplier == 1,
            "optimization.sampling_lr_multiplier is for task detection with model.detector deformable_detr",
        )
        require(not self.model.probe, "model.probe is for task classification: DINO trains the whole network")
        require(not self.data.is_stream, f"data.name: DINO needs images by number, and {self.data.name!r} is a stream")
        require(
            self.crops.local_size <= self.model.image_size,
            f"crops.local_size {self.crops.local_size} is larger than model.image_size {self.model.image_size}",
        )
        require(
            self.dino.teacher_warmup_epochs <= self.optimization.epochs,
            f"dino.teacher_warmup_epochs ({self.dino.teacher_warmup_epochs}) must not be above optimization.epochs "
            f"({self.optimization.epochs})",
        )
