"""DINO's loss: the student predicts, from every crop, the centred and sharpened teacher on the other global crops.

Shapes: B images, n crops of each, of which the first g are global, K outputs.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from contagg.device import processes


@dataclass(frozen=True)
class TeacherEntropy:
    """How sharp and how varied the teacher's targets are, in nats.

    Attributes:
        each: Mean entropy of an image's target, 0 to log K.
        mean: Entropy of the mean target over this process's global crops, `each` to log K.
    """

    each: Tensor
    mean: Tensor

    @property
    def information(self) -> Tensor:
        """mean - each: what a target says of its image. 0 if all images get the same target: a collapse."""
        return self.mean - self.each


class DinoLoss(nn.Module):
    """Cross-entropy of the student's crops with the teacher's other global crops, and the centre of the teacher.

    Args:
        outputs: K.
        student_temperature: Of the student's softmax.
        center_momentum: Of the moving mean of the teacher's outputs, over all processes.
        global_crops: g.
    """

    center: Tensor

    def __init__(
        self, outputs: int, student_temperature: float = 0.1, center_momentum: float = 0.9, global_crops: int = 2
    ) -> None:
        super().__init__()
        self.student_temperature, self.center_momentum = student_temperature, center_momentum
        self.global_crops = global_crops
        self.register_buffer("center", torch.zeros(1, outputs))

    def targets(self, teacher: Tensor, temperature: float) -> Tensor:
        """The teacher's outputs (g * B, K), centred and sharpened, as probabilities."""
        return F.softmax((teacher.detach() - self.center) / temperature, dim=-1)

    def forward(self, student: Tensor, targets: Tensor) -> Tensor:
        """The mean over all pairs of a global crop and another crop of the same image.

        Args:
            student: The student's outputs (n * B, K), crop after crop.
            targets: Of `targets`, (g * B, K).
        """
        seen = targets.chunk(self.global_crops)
        crops = len(student) // len(seen[0])
        logs = F.log_softmax(student / self.student_temperature, dim=-1).chunk(crops)
        pairs = [
            -(target * log).sum(dim=-1).mean()
            for taken, target in enumerate(seen)
            for crop, log in enumerate(logs)
            if crop != taken
        ]
        return torch.stack(pairs).mean()

    @torch.no_grad()
    def update_center(self, teacher: Tensor) -> None:
        """Move the centre towards the mean of the teacher's outputs (g * B, K) over all processes."""
        mean = teacher.mean(dim=0, keepdim=True)
        if processes() > 1:
            dist.all_reduce(mean)
            mean = mean / processes()
        self.center.lerp_(mean.to(self.center.dtype), 1 - self.center_momentum)


def entropy(targets: Tensor) -> TeacherEntropy:
    """Of probabilities (N, K)."""
    return TeacherEntropy(
        each=torch.special.entr(targets).sum(-1).mean(), mean=torch.special.entr(targets.mean(0)).sum()
    )
