"""What a recipe says of the detectors by sets. Needs no torch: a recipe is checked first."""

from typing import Literal

from contagg.config import Count, Positive, Rate, require, section

SET_DETECTORS = ("detr", "deformable_detr", "smca_detr")


@section("model.detr.")
class SetConfig:
    """A transformer whose queries each answer with one object or none, and what it learns by.

    The defaults are DETR's. Each weight is that of a loss and of the cost it is matched by.

    Attributes:
        queries: Of an image: it finds at most so many objects.
        stride: Of the backbone's map that is looked at.
        width: Channels.
        heads: Of every attention.
        encoder_layers: Of self-attention over the map.
        decoder_layers: In each of which the queries look at the map and at each other.
        feedforward: Channels inside a layer's two linear maps.
        dropout: Rate of dropout within the transformer.
        points: That a head of Deformable DETR samples.
        class_loss: cross_entropy with a class "no object", or focal.
        no_object_weight: Of that class.
        class_weight: Of the class.
        box_weight: Of the L1 distance of boxes.
        giou_weight: Of their generalized IoU.
    """

    queries: Count = 100
    stride: Literal[4, 8, 16, 32] = 32
    width: Count = 256
    heads: Count = 8
    encoder_layers: Count = 6
    decoder_layers: Count = 6
    feedforward: Count = 2048
    dropout: Rate = 0.1
    points: Count = 4
    class_loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    no_object_weight: Positive = 0.1
    class_weight: Positive = 1.0
    box_weight: Positive = 5.0
    giou_weight: Positive = 2.0

    def __post_init__(self) -> None:
        require(
            self.width % self.heads == 0 and self.width % 4 == 0,
            f"model.detr.width {self.width} must be a multiple of 4 and of model.detr.heads {self.heads}",
        )
