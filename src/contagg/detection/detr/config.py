"""What a recipe says of the detectors by sets. Needs no torch: a recipe is checked first."""

from dataclasses import dataclass
from typing import Literal

from contagg.config import require

SET_DETECTORS = ("detr", "deformable_detr", "smca_detr")


@dataclass(frozen=True, kw_only=True)
class SetConfig:
    """A transformer whose queries each answer with one object or none, and what it learns by.

    The defaults are DETR's. Each weight is that of a loss and of the cost it is matched by.

    Attributes:
        queries: Of an image: it finds at most so many objects.
        stride: Of the backbone's map that is looked at.
        width: Channels.
        heads: Of every attention.
        encoder_layers, decoder_layers: See the names.
        feedforward: Channels inside a layer's two linear maps.
        dropout: Probability.
        points: That a head of Deformable DETR samples.
        class_loss: cross_entropy with a class "no object", or focal.
        no_object_weight: Of that class.
        class_weight: Of the class.
        box_weight: Of the L1 distance of boxes.
        giou_weight: Of their generalized IoU.
    """

    queries: int = 100
    stride: int = 32
    width: int = 256
    heads: int = 8
    encoder_layers: int = 6
    decoder_layers: int = 6
    feedforward: int = 2048
    dropout: float = 0.1
    points: int = 4
    class_loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    no_object_weight: float = 0.1
    class_weight: float = 1.0
    box_weight: float = 5.0
    giou_weight: float = 2.0

    def __post_init__(self) -> None:
        for name in ("queries", "heads", "encoder_layers", "decoder_layers", "feedforward", "points"):
            value = getattr(self, name)
            require(value >= 1, f"model.sets.{name} must be at least 1, not {value}")
        require(self.stride in (4, 8, 16, 32), f"model.sets.stride must be 4, 8, 16 or 32, not {self.stride}")
        require(
            self.width > 0 and self.width % self.heads == 0 and self.width % 4 == 0,
            f"model.sets.width {self.width} must be a multiple of 4 and of model.sets.heads {self.heads}",
        )
        require(0 <= self.dropout < 1, f"model.sets.dropout must lie in [0, 1), not {self.dropout}")
        for name in ("no_object_weight", "class_weight", "box_weight", "giou_weight"):
            value = getattr(self, name)
            require(value > 0, f"model.sets.{name} must be above 0, not {value}")
