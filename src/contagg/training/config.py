"""What every task's recipe says about optimization and about the run. Needs no torch: a recipe is checked first."""

from dataclasses import dataclass, field
from typing import Literal

from contagg.config import MUTABLE_ON_RESUME, require


@dataclass(frozen=True, kw_only=True)
class OptimizationConfig:
    """AdamW and DeiT's schedule (appendix A.1).

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images a device takes at once.
        accumulate: Batches whose gradients are added before a step.
        learning_rate: The absolute peak; null takes it from learning_rate_per_512.
        learning_rate_per_512: The peak for 512 images a step, scaled by the real total batch (Eq. 9).
        warmup_epochs: Epochs of linear warm-up.
        warmup_learning_rate: Where the warm-up begins.
        minimum_learning_rate: Where the cosine ends.
        weight_decay: For matrices and kernels; norms, biases and gates have none.
        betas: AdamW's moments.
        epsilon: AdamW's epsilon.
        clip_gradient_norm: Largest norm of the gradient; null does not clip.
        average_decay: Decay of a moving average of the weights, which is then validated and exported; null is none.
    """

    epochs: int = 300
    batch_size: int = 128
    accumulate: int = 1
    learning_rate: float | None = None
    learning_rate_per_512: float = 5e-4
    warmup_epochs: int = 5
    warmup_learning_rate: float = 1e-6
    minimum_learning_rate: float = 1e-5
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    clip_gradient_norm: float | None = None
    average_decay: float | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            value = getattr(self, name)
            require(value >= 1, f"optimization.{name} must be at least 1, not {value}")
        for name in ("learning_rate", "learning_rate_per_512", "epsilon", "clip_gradient_norm"):
            value = getattr(self, name)
            require(value is None or value > 0, f"optimization.{name} must be above 0, not {value}")
        for name in ("warmup_epochs", "warmup_learning_rate", "minimum_learning_rate", "weight_decay"):
            value = getattr(self, name)
            require(value >= 0, f"optimization.{name} must not be negative, but is {value}")
        require(
            self.warmup_epochs < self.epochs,
            f"optimization.warmup_epochs ({self.warmup_epochs}) must be below optimization.epochs ({self.epochs})",
        )
        betas_fit = all(0 <= beta < 1 for beta in self.betas)
        require(betas_fit, f"optimization.betas must lie in [0, 1), not {list(self.betas)}")
        decay = self.average_decay
        require(decay is None or 0 < decay < 1, f"optimization.average_decay must lie between 0 and 1, not {decay}")

    def total_batch(self, world_size: int) -> int:
        """Images a step: batch x accumulation x processes."""
        return self.batch_size * self.accumulate * world_size

    def peak_learning_rate(self, world_size: int) -> float:
        """The absolute learning rate, or Eq. 9's for the real total batch."""
        if self.learning_rate is not None:
            return self.learning_rate
        return self.learning_rate_per_512 * self.total_batch(world_size) / 512


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where and how a run is made.

    Attributes:
        folder: The run folder. The same command with the same folder goes on where the run stopped.
        seed: Of everything random.
        resume: auto goes on if the folder holds a checkpoint; must refuses to start without one.
        accelerator: Where to train; auto takes a GPU if there is one.
        devices: Processes on this machine, each with its own device.
        nodes: Machines.
        strategy: How processes work together, in Lightning's words.
        precision: fp32, or mixed with bf16 or fp16.
        channels_last: Lay images out channels last.
        compile: Compile the model with torch.compile.
        synchronize_batchnorm: Share BatchNorm's statistics among processes (GPUs only).
        workers: Processes a device uses to read data; 0 reads in the training process.
        checkpoint_minutes: Longest time without a checkpoint; one is also saved after each epoch.
        keep_last: Newest training states kept; two or more leave one to fall back on.
        keep_best: Best weights kept.
        log_every: Steps between entries in TensorBoard.
    """

    folder: str
    seed: int = 0
    resume: Literal["auto", "must"] = field(default="auto", metadata=MUTABLE_ON_RESUME)
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true"] = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = False
    compile: bool = False
    synchronize_batchnorm: bool = False
    workers: int = field(default=2, metadata=MUTABLE_ON_RESUME)
    checkpoint_minutes: float = field(default=10.0, metadata=MUTABLE_ON_RESUME)
    keep_last: int = field(default=2, metadata=MUTABLE_ON_RESUME)
    keep_best: int = field(default=1, metadata=MUTABLE_ON_RESUME)
    log_every: int = field(default=50, metadata=MUTABLE_ON_RESUME)

    def __post_init__(self) -> None:
        require(bool(self.folder.strip()), "run.folder must name a folder")
        for name in ("devices", "nodes", "keep_last", "keep_best", "log_every"):
            value = getattr(self, name)
            require(value >= 1, f"run.{name} must be at least 1, not {value}")
        for name in ("seed", "workers", "checkpoint_minutes"):
            value = getattr(self, name)
            require(value >= 0, f"run.{name} must not be negative, but is {value}")
        require(self.seed < 2**63, f"run.seed must be below 2^63, not {self.seed}")
        if self.accelerator == "cpu":
            require(self.precision != "fp16", "run.precision fp16 needs a GPU: take bf16 or fp32 on the CPU")
            require(not self.synchronize_batchnorm, "run.synchronize_batchnorm needs GPUs: turn it off on the CPU")

    @property
    def world_size(self) -> int:
        """Processes in all."""
        return self.devices * self.nodes
