"""What tasks' recipes share: which network, how it is optimized, where it runs. Needs no torch."""

from dataclasses import field
from typing import Annotated, Any, Literal

from contagg.checkpoints.locate import require_weights
from contagg.checkpoints.options import check_name, check_options
from contagg.config import (
    MUTABLE_ON_RESUME,
    Ascending,
    Count,
    NonNegative,
    NotEmpty,
    Positive,
    Range,
    Rate,
    Whole,
    require,
    section,
)
from contagg.names import require_model


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
        require_model(self.name, self.options, "model.name")
        require_weights(self.init_weights, "model.init_weights", self.name)


@section("optimization.")
class OptimizationConfig:
    """AdamW and its schedules, for all tasks. The defaults are DeiT's (appendix A.1); a task's recipe sets its own.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images a device takes at once.
        accumulate: Batches whose mean gradient a step takes; the last step of an epoch takes what is left.
        lr: The peak learning rate, for a step of lr_batch_size images.
        lr_batch_size: The rate grows in proportion to a step's images over all devices by this (Eq. 9); null leaves lr
            as it is, however many they are.
        schedule: cosine, or step (gamma at each of the milestones).
        schedule_by: step sets the rate anew at every step. epoch is DeiT's own loop, for its recipes: an epoch keeps
            one rate, which is set once the epoch before is over, so that the first two have the warm-up's first.
        warmup_epochs: Epochs of linear warm-up; fractions are allowed.
        warmup_steps: The same in steps; null goes by warmup_epochs.
        warmup_lr: Where the warm-up begins.
        warmup_prefix: The warm-up reaches its peak with its last step and the cosine begins after it (DINO); without,
            it cuts off the cosine's beginning (DeiT).
        min_lr: Where the cosine ends.
        milestones: Epochs after which a step schedule multiplies the rate by gamma; fractions are allowed.
        gamma: See milestones.
        weight_decay: See weight_decay_for.
        weight_decay_end: Where the weight decay ends, along a cosine; null leaves it as it is.
        weight_decay_for: matrices (and kernels) alone, not norms, biases, gates and learnt positions; or all, as DETR
            and what followed it have it.
        betas: AdamW's decays of the gradients' two moments.
        eps: AdamW's, added to the root of the second.
        max_grad_norm: Largest norm of the gradient; null does not clip.
        grad_norm_of: Whether that is the norm of all tensors together or of each tensor by itself (DINO).
        ema_decay: Decay of a moving average of weights and buffers (EMA), which rises to it as timm's ModelEmaV3 does;
            null keeps none.
        backbone_lr_multiplier: The backbone's rate by lr.
        sampling_lr_multiplier: Likewise that of Deformable DETR's reference points and sampling offsets.
    """

    epochs: Count = 300
    batch_size: Count = 128
    accumulate: Count = 1
    lr: Positive = 5e-4
    lr_batch_size: Count | None = 512
    schedule: Literal["cosine", "step"] = "cosine"
    schedule_by: Literal["step", "epoch"] = "step"
    warmup_epochs: NonNegative = 5
    warmup_steps: Whole | None = None
    warmup_lr: NonNegative = 1e-6
    warmup_prefix: bool = False
    min_lr: NonNegative = 1e-5
    milestones: Annotated[tuple[Positive, ...], Ascending()] = ()
    gamma: Positive = 0.1
    weight_decay: NonNegative = 0.05
    weight_decay_end: NonNegative | None = None
    weight_decay_for: Literal["matrices", "all"] = "matrices"
    betas: tuple[Rate, Rate] = (0.9, 0.999)
    eps: Positive = 1e-8
    max_grad_norm: Positive | None = None
    grad_norm_of: Literal["all", "tensor"] = "all"
    ema_decay: Annotated[float, Range(0, 1, above=True, below=True)] | None = None
    backbone_lr_multiplier: NonNegative = 1.0
    sampling_lr_multiplier: NonNegative = 1.0

    def __post_init__(self) -> None:
        require(
            self.warmup_epochs < self.epochs,
            f"optimization.warmup_epochs ({self.warmup_epochs:g}) must be below optimization.epochs ({self.epochs})",
        )
        require(
            self.warmup_steps is None or self.warmup_epochs == 0,
            f"optimization.warmup_epochs is {self.warmup_epochs:g} and optimization.warmup_steps {self.warmup_steps}: "
            "set the first to 0 or the second to null",
        )
        require(
            self.schedule_by == "step" or (self.schedule == "cosine" and self.warmup_steps is None),
            "optimization.schedule_by epoch goes with schedule cosine and warmup_epochs",
        )
        require(
            all(milestone < self.epochs for milestone in self.milestones),
            f"optimization.milestones must be below optimization.epochs ({self.epochs}), not {list(self.milestones)}",
        )
        require(
            self.weight_decay > 0 or not self.weight_decay_end,
            "optimization.weight_decay must be above 0 where weight_decay_end is given",
        )

    def total_batch(self, world_size: int) -> int:
        """Images a step: batch x accumulation x processes."""
        return self.batch_size * self.accumulate * world_size

    def peak_lr(self, world_size: int) -> float:
        """The highest rate of a whole step: lr, or Eq. 9's for the total batch."""
        return self.lr * self.total_batch(world_size) / self.lr_batch_size if self.lr_batch_size else self.lr


@section("run.")
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
        log_every: Steps between the loggers' entries.
        loggers: Lightning's that are told the numbers, beside metrics.csv: csv, tensorboard, wandb, mlflow.
    """

    folder: Annotated[str, NotEmpty()]
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0
    resume: Literal["auto", "must"] = field(default="auto", metadata=MUTABLE_ON_RESUME)
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: Count = 1
    nodes: Count = 1
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true"] = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = False
    compile: bool = False
    synchronize_batchnorm: bool = False
    workers: Whole = field(default=2, metadata=MUTABLE_ON_RESUME)
    checkpoint_minutes: NonNegative = field(default=10.0, metadata=MUTABLE_ON_RESUME)
    keep_last: Count = field(default=2, metadata=MUTABLE_ON_RESUME)
    keep_best: Count = field(default=1, metadata=MUTABLE_ON_RESUME)
    log_every: Count = field(default=50, metadata=MUTABLE_ON_RESUME)
    loggers: tuple[Literal["csv", "tensorboard", "wandb", "mlflow"], ...] = field(
        default=("tensorboard",), metadata=MUTABLE_ON_RESUME
    )

    def __post_init__(self) -> None:
        if self.accelerator == "cpu":
            require(self.precision != "fp16", "run.precision fp16 needs a GPU: take bf16 or fp32 on the CPU")
            require(not self.synchronize_batchnorm, "run.synchronize_batchnorm needs GPUs: turn it off on the CPU")

    @property
    def world_size(self) -> int:
        """Processes in all."""
        return self.devices * self.nodes
