"""What mixes behind the backbone of DETR and SMCA-DETR, as `contagg.inspect` records it: encoder and decoder."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from contagg.affinity.forms import Dense
from contagg.detection.detr.cross_attention import CrossAttention, by_certainty, cross_attentions
from contagg.detection.detr.network import SetNetwork
from contagg.inspect.forms import RecordedLayer, Term, Unshown
from contagg.inspect.seeing import see

SELF = Unshown(
    name="decoder, self-attention", reason="queries gather from each other there, and they lie nowhere in the image"
)


class _OfMap(nn.Module):
    """What stands behind the backbone, for its map (1, C, h, w) alone."""

    def __init__(self, core: Any) -> None:
        super().__init__()
        self.core = core

    def forward(self, features: Tensor) -> Any:
        mask = features.new_ones(1, *features.shape[2:], dtype=torch.bool)
        return self.core(features, mask, features.new_tensor([features.shape[:1:-1]]))


def encoder_layers(network: SetNetwork, image: Tensor, wanted: Callable[[str], bool]) -> list[RecordedLayer]:
    """Self-attention over the map of a normalised image (1, 3, H, W), which any backbone gives."""
    with torch.no_grad():
        (features,) = network.features(image)
    recording = see(_OfMap(network.core), features, lambda name: ".encoder." in name and wanted(f"network.{name}"))
    return [
        replace(layer, name=f"network.{layer.name}", label=f"encoder layer {number}", part="encoder")
        for number, layer in enumerate(recording.layers, start=1)
    ]


def decoder_layers(network: SetNetwork, image: Tensor, names: Sequence[str]) -> list[RecordedLayer]:
    """Cross-attention of all queries to the image, the surest first, and beside it SMCA's prior."""
    found = cross_attentions(network, image, [(image.shape[2], image.shape[3])])
    order, queries = by_certainty(found[-1].probabilities, names)
    return [_layer(one, order, queries) for one in found]


def _layer(found: CrossAttention, order: Tensor, queries: tuple[str, ...]) -> RecordedLayer:
    def term(kind: str, maps: Tensor) -> Term:
        return Term(name=kind, weight=torch.ones(1), form=Dense(matrix=maps[:, order].flatten(2)))

    return RecordedLayer(
        name=f"network.core.transformer.decoder.layers.{found.layer - 1}.multihead_attn",
        label=f"decoder layer {found.layer}",
        grid=(found.attention.shape[2], found.attention.shape[3]),
        terms=(term("dynamic", found.attention),),
        beside=() if found.prior is None else (term("prior", found.prior),),
        targets=queries,
        part="decoder",
    )
