"""Where the queries of DETR and SMCA-DETR look: their cross-attention, and SMCA's prior on it.

M heads, Q queries, a map of h x w cells, its padding left out.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from contagg.detection.detectors import Detector
from contagg.detection.detr.matching import Predictions
from contagg.detection.detr.network import AttendingCore
from contagg.errors import UserError
from contagg.figures import percent


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
    number = _number(network, layer)
    batch, _ = network.transform([image], None)
    return cross_attentions(network, batch.tensors, [(image.shape[1], image.shape[2])])[number - 1]


@torch.no_grad()
def cross_attentions(network: Any, batch: Tensor, sizes: Sequence[tuple[int, int]]) -> list[CrossAttention]:
    """Of all decoder layers, from one pass over a batch of one image of (height, width) pixels, perhaps padded."""
    given: list[tuple[nn.Module, Any, Any]] = []
    with ExitStack() as hooks:
        for layer in network.core.transformer.decoder.layers:
            note = layer.multihead_attn.register_forward_pre_hook
            hooks.enter_context(note(lambda *found: given.append(found), with_kwargs=True))
        predictions = network.predict(batch, sizes)
    stride = network.config.stride
    cells = [-(-length // stride) for length in sizes[0]]
    grid = [length // stride for length in batch.shape[2:]]

    def as_maps(values: Tensor) -> Tensor:
        return values.unflatten(-1, grid)[..., : cells[0], : cells[1]].float().cpu()

    found = []
    for number, (module, inputs, options) in enumerate(given, start=1):
        _, attention = module(*inputs, **options | {"need_weights": True, "average_attn_weights": False})
        mask = options.get("attn_mask")
        found.append(
            CrossAttention(
                layer=number,
                attention=as_maps(attention[0]),
                prior=None if mask is None else as_maps(mask.exp()),
                probabilities=probabilities(predictions, network.config.class_loss).cpu(),
                boxes=predictions.boxes[-1, 0].cpu(),
            )
        )
    return found


def _number(network: Any, layer: int | None) -> int:
    if not isinstance(getattr(network, "core", None), AttendingCore):
        raise UserError(
            "queries attend to a whole map in detr and smca_detr alone: Deformable DETR samples a few points, "
            "RetinaNet and Mask R-CNN have no queries"
        )
    layers = network.core.transformer.decoder.layers
    number = len(layers) if layer is None else layer
    if not 1 <= number <= len(layers):
        raise UserError(f"decoder layer {number} does not exist; there are 1 to {len(layers)}")
    return number


def probabilities(predictions: Predictions, class_loss: str) -> Tensor:
    """Of each class in the one image's last answers, (Q, K)."""
    logits = predictions.logits[-1, 0]
    return logits.sigmoid() if class_loss == "focal" else logits.softmax(-1)[:, :-1]


def caption(found: Tensor, query: int, names: Sequence[str]) -> str:
    """The likeliest class of a query, from 1, of probabilities (Q, K)."""
    probability, label = found[query - 1].max(0)
    return f"{names[int(label)]} {percent(float(probability), 0)}"


def by_certainty(found: Tensor, names: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
    """The queries of probabilities (Q, K), the surest first: their numbers from 0, and what they are called."""
    order = found.amax(1).argsort(descending=True).cpu()
    return order, tuple(f"{query + 1}: {caption(found, query + 1, names)}" for query in order.tolist())
