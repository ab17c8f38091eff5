"""The A of Deformable DETR's attention: points between the cells of the map, each shared out to the four around it."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from contagg.affinity.bands import Sparse
from contagg.affinity.base import Grid
from contagg.detection.detr.cross_attention import by_certainty, probabilities
from contagg.inspect.forms import RecordedLayer, Term


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
