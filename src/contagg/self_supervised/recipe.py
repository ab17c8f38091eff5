"""The recipe of a DINO run (Sec. 4.5, appendix A.5). The defaults are the original's. Needs no torch."""

from dataclasses import dataclass, field
from typing import Literal

from contagg.classification.recipe import ModelConfig
from contagg.config import MUTABLE_ON_RESUME, require
from contagg.data.config import CropsConfig, DataConfig
from contagg.training.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class DinoConfig:
    """Head, loss and teacher.

    Attributes:
        outputs, hidden, bottleneck: Widths of the head: prototypes, its two hidden layers, what is normalized.
        student_temperature: Of the student's softmax.
        teacher_temperature: Of the teacher's, after its warm-up.
        teacher_warmup_temperature, teacher_warmup_epochs: Where the teacher's begins, and how long it rises.
        teacher_momentum: Where the teacher's momentum begins; it ends at 1.
        center_momentum: Of the moving mean of the teacher's outputs.
        freeze_prototypes_epochs: Epochs in which the last layer stays as it is.
    """

    outputs: int = 65536
    hidden: int = 2048
    bottleneck: int = 256
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    teacher_warmup_temperature: float = 0.04
    teacher_warmup_epochs: int = 0
    teacher_momentum: float = 0.996
    center_momentum: float = 0.9
    freeze_prototypes_epochs: int = 1

    def __post_init__(self) -> None:
        require(self.outputs >= 2, f"dino.outputs must be at least 2, not {self.outputs}")
        for name in ("hidden", "bottleneck"):
            require(getattr(self, name) >= 1, f"dino.{name} must be at least 1, not {getattr(self, name)}")
        for name in ("student_temperature", "teacher_temperature", "teacher_warmup_temperature"):
            require(getattr(self, name) > 0, f"dino.{name} must be above 0, not {getattr(self, name)}")
        for name in ("teacher_momentum", "center_momentum"):
            require(0 <= getattr(self, name) <= 1, f"dino.{name} must lie in [0, 1], not {getattr(self, name)}")
        for name in ("teacher_warmup_epochs", "freeze_prototypes_epochs"):
            require(getattr(self, name) >= 0, f"dino.{name} must not be negative, but is {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class DinoOptimizationConfig:
    """AdamW, with learning rate and weight decay set at every step.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images a device takes at once.
        learning_rate: The absolute peak; null takes it from learning_rate_per_256.
        learning_rate_per_256: The peak for 256 images a step, scaled by the real total batch.
        warmup_epochs: Epochs of linear rise from 0.
        minimum_learning_rate: Where the cosine ends.
        weight_decay, weight_decay_end: From and to, along a cosine; for matrices and kernels alone.
        clip_tensor_norm: Largest norm of the gradient of each tensor, by itself; null does not clip.
    """

    epochs: int = 100
    batch_size: int = 64
    learning_rate: float | None = None
    learning_rate_per_256: float = 5e-4
    warmup_epochs: int = 10
    minimum_learning_rate: float = 1e-6
    weight_decay: float = 0.04
    weight_decay_end: float = 0.4
    clip_tensor_norm: float | None = 3.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            require(value >= 1, f"optimization.{name} must be at least 1, not {value}")
        for name in ("learning_rate", "learning_rate_per_256", "weight_decay", "clip_tensor_norm"):
            value = getattr(self, name)
            require(value is None or value > 0, f"optimization.{name} must be above 0, not {value}")
        for name in ("warmup_epochs", "minimum_learning_rate", "weight_decay_end"):
            value = getattr(self, name)
            require(value >= 0, f"optimization.{name} must not be negative, but is {value}")
        require(
            self.warmup_epochs < self.epochs,
            f"optimization.warmup_epochs ({self.warmup_epochs}) must be below optimization.epochs ({self.epochs})",
        )

    def peak_learning_rate(self, world_size: int) -> float:
        """The absolute learning rate, or that for the real total batch."""
        if self.learning_rate is not None:
            return self.learning_rate
        return self.learning_rate_per_256 * self.batch_size * world_size / 256


@dataclass(frozen=True, kw_only=True)
class KnnConfig:
    """How well classes can be told by the teacher's nearest training images, while it trains.

    Attributes:
        every: Epochs between; 0 is never, for images without classes.
        neighbours: The k; the first decides which weights are best.
        temperature: A neighbour votes with exp(cosine / temperature).
        crop_fraction: Part of the resized image that is looked at; 1 takes it whole.
        batch_size: Images at once.
    """

    every: int = field(default=20, metadata=MUTABLE_ON_RESUME)
    neighbours: tuple[int, ...] = (10, 20, 100, 200)
    temperature: float = 0.07
    crop_fraction: float = 0.875
    batch_size: int = field(default=128, metadata=MUTABLE_ON_RESUME)

    def __post_init__(self) -> None:
        require(self.every >= 0, f"knn.every must not be negative, but is {self.every}")
        require(
            bool(self.neighbours) and min(self.neighbours, default=0) >= 1,
            f"knn.neighbours must be one or more numbers above 0, not {list(self.neighbours)}",
        )
        require(self.temperature > 0, f"knn.temperature must be above 0, not {self.temperature}")
        require(0 < self.crop_fraction <= 1, f"knn.crop_fraction must lie in (0, 1], not {self.crop_fraction}")
        require(self.batch_size >= 1, f"knn.batch_size must be at least 1, not {self.batch_size}")


@dataclass(frozen=True, kw_only=True)
class DinoRecipe:
    """Learn without labels what a slow average of oneself sees in other crops of an image (DINO).

    Attributes:
        task: dino.
        model: Which network; drop_path is the student's alone. init_from: a weights file, or the original's checkpoint.
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
    optimization: DinoOptimizationConfig = DinoOptimizationConfig()
    knn: KnnConfig = KnnConfig()
    run: RunConfig

    def __post_init__(self) -> None:
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
