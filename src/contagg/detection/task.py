"""What a detection step computes, whichever the detector."""

from bisect import bisect_right
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from contagg.data.coco.annotations import CocoAnnotations
from contagg.data.coco.loaders import Batch
from contagg.detection.config import StepOptimizationConfig
from contagg.detection.detectors import features_of
from contagg.detection.evaluation import Collected, Kind, add_batch, score_together
from contagg.training.optimizer import parameter_groups

LOGGED = ("ap", "ap50", "ap75")
"""Of COCO's twelve numbers, those followed epoch by epoch; `contagg validate` gives all."""


class Detection(LightningModule):
    """Sums the losses that the detector names; scores what it finds as COCO does.

    Args:
        model: As `Detector`: losses by name in training, detections otherwise.
        validation: The annotations to score against.
    """

    def __init__(
        self, model: nn.Module, optimization: StepOptimizationConfig, validation: CocoAnnotations, kinds: list[Kind]
    ) -> None:
        super().__init__()
        self.model, self.optimization, self.validation, self.kinds = model, optimization, validation, kinds
        self.category_ids = [category.id for category in validation.categories]
        self.collected = Collected()

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """`loss`, the sum, and its parts."""
        losses: dict[str, Tensor] = self.model(*batch)
        parts = {name if name.startswith("loss") else f"loss_{name}": value for name, value in losses.items()}
        return {
            "loss": torch.stack(list(parts.values())).sum(),
            **{name: part.detach() for name, part in parts.items()},
        }

    def on_validation_epoch_start(self) -> None:
        """Begin anew."""
        self.collected = Collected()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep what was found."""
        images, targets = batch
        if images:
            add_batch(self.collected, self.model(images), images, targets, self.category_ids)

    def on_validation_epoch_end(self) -> None:
        """Score it."""
        scores = score_together(self.validation, self.collected, self.kinds)
        self.log_dict({f"{kind}_{name}": scores[f"{kind}_{name}"] for kind in self.kinds for name in LOGGED})
        self.collected = Collected()

    def configure_optimizers(self) -> Any:
        """AdamW over `rated_groups`."""
        config = self.optimization
        groups = rated_groups(self.model, config)
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.epsilon)


def rated_groups(model: nn.Module, config: StepOptimizationConfig) -> list[dict[str, Any]]:
    """Parameter groups whose `lr_scale` is their rate by the learning rate; those of 1 come first."""
    groups: list[dict[str, Any]]
    groups = [{"params": [p for p in model.parameters() if p.requires_grad], "weight_decay": config.weight_decay}]
    if config.decays == "matrices":
        groups = parameter_groups(model, config.weight_decay)
    factors = {id(parameter): config.backbone_factor for parameter in features_of(model).parameters()}
    for name, parameter in model.named_parameters():
        if "sampling_offsets" in name or "reference_points" in name:
            factors[id(parameter)] = config.sampling_factor
    rated = []
    for group in groups:
        by_factor: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_factor.setdefault(factors.get(id(parameter), 1.0), []).append(parameter)
        rated += [{**group, "params": some, "lr_scale": factor} for factor, some in by_factor.items()]
    return sorted(rated, key=lambda group: group["lr_scale"] != 1)


class StepSchedule:
    """Linear warm-up, then drops, as a function of the steps taken alone.

    Args:
        steps: In an epoch.
    """

    def __init__(self, optimizer: Optimizer, config: StepOptimizationConfig, steps: int) -> None:
        self.optimizer, self.config = optimizer, config
        self.drops = [round(epoch * steps) for epoch in config.drop_epochs]

    def step(self, epoch: int) -> None:
        """Nothing depends on the epoch."""

    def step_update(self, num_updates: int) -> None:
        """Set the rate of the step that follows `num_updates` steps."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self.factor(num_updates) * group.get("lr_scale", 1.0)

    def factor(self, taken: int) -> float:
        """The rate by learning_rate."""
        config = self.config
        dropped = config.drop_factor ** bisect_right(self.drops, taken)
        if taken >= config.warmup_steps:
            return dropped
        return dropped * (config.warmup_factor + (1 - config.warmup_factor) * taken / config.warmup_steps)
