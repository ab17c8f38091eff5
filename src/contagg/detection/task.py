"""What a detection step computes, whichever the detector."""

from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from contagg.data.coco.annotations import CocoAnnotations
from contagg.data.coco.loaders import Batch
from contagg.detection.detectors import features_of
from contagg.detection.evaluation import Collected, Kind, add_batch, score_together
from contagg.training.config import OptimizationConfig
from contagg.training.optimizer import build_optimizer

LOGGED = ("ap", "ap50", "ap75")
"""Of COCO's twelve numbers, those followed epoch by epoch; `contagg validate` gives all."""


class Detection(LightningModule):
    """Sums the losses that the detector names; scores what it finds as COCO does.

    Args:
        model: As `Detector`: losses by name in training, detections otherwise.
        validation: The annotations to score against.
    """

    def __init__(
        self, model: nn.Module, optimization: OptimizationConfig, validation: CocoAnnotations, kinds: list[Kind]
    ) -> None:
        super().__init__()
        self.model, self.optimization, self.validation, self.kinds = model, optimization, validation, kinds
        self.category_ids = [category.id for category in validation.categories]
        self.collected = Collected()

    @property
    def followed(self) -> list[str]:
        """What is logged of the scores: a few of COCO's twelve, and each category's average precision."""
        few = [f"{kind}_{name}" for kind in self.kinds for name in LOGGED]
        return few + [f"{kind}_ap/{name}" for kind in self.kinds for name in self.validation.unique_names]

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
        """Score it: the numbers that are followed, and each category's average precision."""
        self.collected.unreadable |= set(self.trainer.val_dataloaders.unreadable)  # type: ignore[union-attr]
        scores = score_together(self.validation, self.collected, self.kinds)
        followed = set(self.followed)
        self.log_dict({name: value for name, value in scores.items() if name in followed})
        self.collected = Collected()

    def configure_optimizers(self) -> Any:
        """AdamW; the backbone, and what Deformable DETR samples by, may have rates of their own."""
        return build_optimizer(self.model, self.optimization, scaled_parameters(self.model, self.optimization))


def scaled_parameters(model: nn.Module, config: OptimizationConfig) -> list[tuple[list[nn.Parameter], float]]:
    """The detector's parameters whose rate is not the learning rate, with its multiple."""
    sampling = [p for name, p in model.named_parameters() if "sampling_offsets" in name or "reference_points" in name]
    return [
        (list(features_of(model).parameters()), config.backbone_lr_multiplier),
        (sampling, config.sampling_lr_multiplier),
    ]
