"""Where the queries of DETR and SMCA-DETR look: their cross-attention, and SMCA's prior on it.

M heads, Q queries, a map of h x w cells, its padding left out.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from contagg.detection.detectors import Detector
from contagg.detection.detr.matching import Predictions
from contagg.detection.detr.network import AttendingCore
from contagg.detection.detr.transformer import DecoderLayer
from contagg.errors import UserError


@dataclass(frozen=True, kw_only=True)
class CrossAttention:
    """What one decoder layer's queries attend to in an image.

    Attributes:
        layer: From 1.
        attention: (M, Q, h, w), each sums to 1.
        prior: SMCA's Gaussians, 1 where they are highest, (M, Q, h, w); None in DETR.
        probabilities: Of each class, (Q, K).
        boxes: Centre x and y, width and height as fractions of the image, (Q, 4).
    """

    layer: int
    attention: Tensor
    prior: Tensor | None
    probabilities: Tensor
    boxes: Tensor


@torch.no_grad()
def cross_attention(model: Detector, image: Tensor, layer: int | None = None) -> CrossAttention:
    """Run a detector in evaluation mode on an image (3, H, W) as it takes it.

    Args:
        layer: Of the decoder, from 1; None is the last.

    Raises:
        UserError: another detector, which has no such attention, or a layer that does not exist.
    """
    network: Any = model.network
    number, chosen = _decoder_layer(network, layer)
    given: dict[str, Any] = {}
    hook = chosen.multihead_attn.register_forward_pre_hook(
        lambda _, inputs, options: given.update(inputs=inputs, options=options), with_kwargs=True
    )
    try:
        batch, _ = network.transform([image], None)
        predictions = network.predict(batch.tensors, batch.image_sizes)
    finally:
        hook.remove()
    options = given["options"] | {"need_weights": True, "average_attn_weights": False}
    _, attention = chosen.multihead_attn(*given["inputs"], **options)
    stride, whole = network.config.stride, batch.tensors.shape[2:]
    cells = [-(-length // stride) for length in image.shape[1:]]
    grid = [length // stride for length in whole]

    def as_maps(values: Tensor) -> Tensor:
        return values.unflatten(-1, grid)[..., : cells[0], : cells[1]].float().cpu()

    mask = given["options"].get("attn_mask")
    return CrossAttention(
        layer=number,
        attention=as_maps(attention[0]),
        prior=None if mask is None else as_maps(mask.exp()),
        probabilities=probabilities(predictions, network.config.class_loss).cpu(),
        boxes=predictions.boxes[-1, 0].cpu(),
    )


def _decoder_layer(network: Any, layer: int | None) -> tuple[int, DecoderLayer]:
    if not isinstance(getattr(network, "core", None), AttendingCore):
        raise UserError(
            "queries attend to a whole map in detr and smca_detr alone: Deformable DETR samples a few points, "
            "RetinaNet and Mask R-CNN have no queries"
        )
    layers = network.core.transformer.decoder.layers
    number = len(layers) if layer is None else layer
    if not 1 <= number <= len(layers):
        raise UserError(f"decoder layer {number} does not exist; there are 1 to {len(layers)}")
    return number, layers[number - 1]


def probabilities(predictions: Predictions, class_loss: str) -> Tensor:
    """Of each class in the one image's last answers, (Q, K)."""
    logits = predictions.logits[-1, 0]
    return logits.sigmoid() if class_loss == "focal" else logits.softmax(-1)[:, :-1]
