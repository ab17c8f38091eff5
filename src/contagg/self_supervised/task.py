"""What a DINO step computes, in the original's order: loss, clip, freeze, step, teacher.

Shapes: B images, n crops of each, (B, C, S, S), the two global ones first.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from contagg.data.crops import GLOBAL_CROPS
from contagg.self_supervised.collapse import collapse
from contagg.self_supervised.knn import Features, accuracies
from contagg.self_supervised.loss import DinoLoss, entropy
from contagg.self_supervised.networks import MultiCrop
from contagg.self_supervised.recipe import DinoConfig, KnnConfig
from contagg.training.config import OptimizationConfig
from contagg.training.metrics import EpochMetrics
from contagg.training.optimizer import build_optimizer
from contagg.training.schedules import cosine, schedules_of


class Dino(LightningModule):
    """Self-distillation without labels; validation is by the nearest neighbours of the teacher's features.

    The teacher trains in train mode: its BatchNorms gather statistics from its own passes over the global crops.

    Args:
        student, teacher: Of equal parameters; the teacher asks for no gradient.
    """

    def __init__(
        self,
        student: MultiCrop,
        teacher: MultiCrop,
        dino: DinoConfig,
        optimization: OptimizationConfig,
        knn: KnnConfig,
        *,
        channels_last: bool,
    ) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher
        self.loss = DinoLoss(dino.outputs, dino.student_temperature, dino.center_momentum, GLOBAL_CROPS)
        self.dino, self.optimization, self.knn = dino, optimization, knn
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self._found: list[Features] = []

    def training_step(self, batch: tuple[Sequence[Tensor], Tensor], batch_idx: int) -> dict[str, Tensor]:
        """The loss of a batch's crops; the labels are not looked at."""
        crops = [crop.contiguous(memory_format=self.layout) for crop in batch[0]]
        with torch.no_grad():
            outputs = _at_least_float32(self.teacher(crops[:GLOBAL_CROPS]))
        targets = self.loss.targets(outputs, teacher_temperature(self.dino, self.current_epoch))
        loss = self.loss(_at_least_float32(self.student(crops)), targets)
        self.loss.update_center(outputs)
        seen = entropy(targets)
        return {"loss": loss, "teacher_entropy": seen.each, "teacher_information": seen.information}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over the student; its backbone may have a rate of its own."""
        backbone = [(self.student.backbone.parameters(), self.optimization.backbone_lr_multiplier)]
        return build_optimizer(self.student, self.optimization, backbone)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Hold the prototypes."""
        if self.current_epoch < self.dino.freeze_prototypes_epochs:
            drop_gradients(self.student.head.last_layer)

    def teacher_momentum(self, taken: int) -> float:
        """What the teacher keeps of itself at the step that follows `taken` steps: along a cosine to 1."""
        steps = schedules_of(self.optimization, self.trainer).steps
        return cosine(taken, steps, self.dino.teacher_momentum, 1.0)

    def optimizer_step(self, *arguments: Any, **keywords: Any) -> None:
        """Step, then let the teacher follow: a state saved after the step holds both."""
        momentum = self.teacher_momentum(self.trainer.global_step)
        super().optimizer_step(*arguments, **keywords)
        follow(self.teacher, self.student, momentum)

    def on_train_start(self) -> None:
        """Say between what the teacher's entropy lies."""
        if self.trainer.is_global_zero:
            top = math.log(self.dino.outputs)
            print(f"train_teacher_entropy lies between 0 (one prototype) and {top:.3f} (uniform)", flush=True)

    def on_train_epoch_end(self) -> None:
        """Say so if the teacher has collapsed."""
        rows = next(part.rows for part in self.trainer.callbacks if isinstance(part, EpochMetrics))  # type: ignore[attr-defined]
        row = rows[-1]
        kind = collapse(row["train_teacher_entropy"], row["train_teacher_information"], self.dino.outputs)
        if kind and self.trainer.is_global_zero:
            print(f"warning: COLLAPSE at epoch {row['epoch']}: {kind}", flush=True)

    def on_validation_epoch_start(self) -> None:
        """Make room for the features of the bank and of the queries."""
        self._found = [Features(len(loader.sampler)) for loader in self.trainer.val_dataloaders or []]

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Keep the teacher's features of images (B, C, S, S); the first loader gives the bank."""
        images, labels = batch
        self._found[dataloader_idx].add(self.teacher.backbone(images.contiguous(memory_format=self.layout)), labels)

    def on_validation_epoch_end(self) -> None:
        """Log `accuracy_knn<k>` for each k."""
        bank, queries = self._found
        self._found = []
        for k, accuracy in accuracies(queries, bank, self.knn.neighbours, self.knn.temperature, self.device).items():
            self.log(f"accuracy_knn{k}", accuracy)


def _at_least_float32(outputs: Tensor) -> Tensor:
    """Under mixed precision the loss is computed in float32; what is more precise stays so."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


def teacher_temperature(dino: DinoConfig, epoch: int) -> float:
    """In an epoch, 0 first: linear over teacher_warmup_epochs, an equal step an epoch, then teacher_temperature."""
    start, end, warmup = dino.teacher_warmup_temperature, dino.teacher_temperature, dino.teacher_warmup_epochs
    return end if epoch >= warmup else start + (end - start) * epoch / max(warmup - 1, 1)


def drop_gradients(module: nn.Module) -> None:
    """Let the step pass by this module: without a gradient AdamW neither moves nor decays a tensor."""
    for parameter in module.parameters():
        parameter.grad = None


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher <- momentum * teacher + (1 - momentum) * student, for parameters alone.

    BatchNorm's statistics are buffers: the teacher gathers its own.
    """
    mine: list[Tensor] = list(teacher.parameters())
    torch._foreach_mul_(mine, momentum)
    torch._foreach_add_(mine, [parameter.detach() for parameter in student.parameters()], alpha=1 - momentum)
