"""What mixes behind the backbone of a detector by sets, as `contagg.inspect` records it: encoder and decoder.

DETR and SMCA-DETR attend to the whole map. Deformable DETR samples points between its cells, each shared out to the
four around it.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from contagg.affinity.bands import Sparse
from contagg.affinity.base import Grid
from contagg.affinity.forms import Dense
from contagg.detection.detr.cross_attention import CrossAttention, by_certainty, cross_attentions, probabilities
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


@torch.no_grad()
def sampling_layers(network: Any, image: Tensor, names: Sequence[str]) -> list[RecordedLayer]:
    """Of encoder and decoder, for a normalised image (1, 3, H, W); queries begin with the surest."""
    model, given = network.core.model, list[tuple[Any, ...]]()
    modules = [layer.self_attn for layer in model.encoder.layers]
    modules += [layer.encoder_attn for layer in model.decoder.layers]
    with ExitStack() as hooks:
        for each in modules:
            hooks.enter_context(each.attn.register_forward_pre_hook(lambda _, inputs: given.append(inputs)))
        predictions = network.predict(image, [tuple(image.shape[2:])])
    order, queries = by_certainty(probabilities(predictions, network.config.class_loss), names)
    encoders, layers = len(model.encoder.layers), []
    for index, (_, _, ((height, width),), _, points, weights, _) in enumerate(given):
        form = sampling_form(points[0, :, :, 0], weights[0, :, :, 0], (height, width))
        part, number, module = ("encoder", index, "self_attn")
        if index >= encoders:
            form = Sparse(weights=form.weights[:, order], targets=form.targets[:, order], places=form.places)
            part, number, module = ("decoder", index - encoders, "encoder_attn")
        layers.append(
            RecordedLayer(
                name=f"network.core.model.{part}.layers.{number}.{module}",
                label=f"{part} layer {number + 1}",
                grid=(height, width),
                terms=(Term(name="dynamic", weight=torch.ones(1), form=form),),
                targets=queries if part == "decoder" else (),
                part=part,
            )
        )
    return layers


def sampling_form(points: Tensor, weights: Tensor, grid: Grid) -> Sparse:
    """Points (Q, M, P, 2), x and y as parts of the grid, and their weights (Q, M, P): bilinear, and zero outside."""
    place = points.transpose(0, 1) * points.new_tensor(grid[::-1]) - 0.5
    first = place.floor()
    part, entries, targets = place - first, [], []
    for down in (0, 1):
        for right in (0, 1):
            column, row = (first + first.new_tensor([right, down])).long().unbind(-1)
            shares = part * first.new_tensor([2 * right - 1, 2 * down - 1]) + first.new_tensor([1 - right, 1 - down])
            inside = (row >= 0) & (row < grid[0]) & (column >= 0) & (column < grid[1])
            entries.append(weights.transpose(0, 1) * shares.prod(-1) * inside)
            targets.append(torch.where(inside, row * grid[1] + column, -1))
    return Sparse(weights=torch.cat(entries, -1), targets=torch.cat(targets, -1), places=grid[0] * grid[1])
