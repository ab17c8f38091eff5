"""What a classification step computes.

Shapes: B images (B, C, H, W), K classes.
"""

from typing import Any

import torch
from pytorch_lightning import LightningModule
from timm.data import Mixup
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from contagg.data.sampling import IGNORE_INDEX
from contagg.device import require_finite
from contagg.training.config import OptimizationConfig
from contagg.training.optimizer import build_optimizer


class Classification(LightningModule):
    """Cross-entropy with label smoothing, or against mixed targets; accuracy over each validation image once.

    Args:
        model: (B, C, H, W) -> (B, K).
        mix: Mixes the images and targets of a training batch; smooths its targets itself.
    """

    def __init__(
        self,
        model: nn.Module,
        optimization: OptimizationConfig,
        *,
        num_classes: int,
        label_smoothing: float,
        mix: Mixup | None,
        channels_last: bool,
    ) -> None:
        super().__init__()
        self.model = model
        self.optimization = optimization
        self.label_smoothing, self.mix = label_smoothing, mix
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.metrics = nn.ModuleDict({"validation_loss": MeanMetric(), **accuracies(num_classes)})

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """The mean loss of images (B, C, H, W) and labels (B,)."""
        images, targets = batch
        images = images.contiguous(memory_format=self.layout)
        if self.mix is None:
            loss = functional.cross_entropy(self.model(images).float(), targets, label_smoothing=self.label_smoothing)
        else:
            images, targets = self.mix(images, targets)
            loss = functional.cross_entropy(self.model(images).float(), targets)
        return {"loss": loss}

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Add a batch to the metrics; targets may be IGNORE_INDEX."""
        images, targets = batch
        counted = targets != IGNORE_INDEX
        logits = self.model(images.contiguous(memory_format=self.layout)).float()[counted]
        require_finite({"what the network answers": logits}, f"validation after step {self.global_step}")
        targets = targets[counted]
        for name, metric in self.metrics.items():
            assert isinstance(metric, Metric)
            if name == "validation_loss":
                metric(functional.cross_entropy(logits, targets, reduction="none"))
            elif len(targets):
                metric(logits, targets)
            self.log(name, metric, on_step=False, on_epoch=True)

    def configure_optimizers(self) -> Any:
        """AdamW over the model's parameter groups; all but the classifier is the backbone."""
        heads: Any = self.model.get_classifier()  # type: ignore[operator]
        classifier = nn.ModuleList(heads if isinstance(heads, tuple) else [heads])
        scaled = [(self.model.parameters(), self.optimization.backbone_lr_multiplier), (classifier.parameters(), 1.0)]
        return build_optimizer(self.model, self.optimization, scaled)


def accuracies(num_classes: int) -> dict[str, Metric]:
    """`accuracy`, and `accuracy_top5` where there are a hundred classes or more: fractions of images."""
    tops = {"accuracy": 1, "accuracy_top5": 5} if num_classes >= 100 else {"accuracy": 1}
    return {name: MulticlassAccuracy(num_classes, top_k=top, average="micro") for name, top in tops.items()}
