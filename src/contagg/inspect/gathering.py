"""What one position of an image gathers from, for chosen layers and heads: the numbers behind a figure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from contagg.affinity.base import spread
from contagg.errors import UserError
from contagg.inspect.forms import RecordedLayer, Recording
from contagg.inspect.seeing import see, wanted_modules
from contagg.inspect.stages import stage_and_block
from contagg.inspect.view import Position, View, stride_of

Head = int | Literal["mean"]


@dataclass(frozen=True, kw_only=True)
class Map:
    """A row of an affinity over the grid, not yet weighted.

    Attributes:
        values: (H, W).
        prefix: (P,), its class tokens.
        weight: alpha or beta.
        sizes: Whether these are means of |A| over several rows of mixed signs, which would cancel each other.
    """

    values: Tensor
    prefix: Tensor
    weight: float
    sizes: bool


@dataclass(frozen=True, kw_only=True)
class Gathering:
    """What one head of a layer gathers from, at one position.

    Attributes:
        layer: With its A.
        head: From 1, or "mean".
        heads: How many there are to choose from.
        row, column: The position's token on the grid of the tokens that gather; None where a class token alone does.
        stride: Pixels of the network's image along a token's side, of the tokens that are gathered from.
        own_stride: Of those that gather.
        maps: By name: "dynamic", "static", then their weighted sum "mixed".
    """

    layer: RecordedLayer
    head: Head
    heads: int
    row: int | None
    column: int | None
    stride: float
    own_stride: float
    maps: Mapping[str, Map]


def gather(
    model: nn.Module,
    view: View,
    at: Position,
    *,
    stages: Sequence[int] | None = None,
    blocks: Sequence[int] | None = None,
    heads: Sequence[Head] = ("mean",),
    names: Sequence[str] | None = None,
) -> list[Gathering]:
    """Run a model on a view and take the rows of A at a position.

    Args:
        stages, blocks, heads: From 1. Stages alone mean all of their blocks, blocks alone those of all stages, neither
            the last block of each stage (of a plain transformer the first, the middle and the last).
        names: Of modules, or what they begin with: all layers within, in the place of stages and blocks.

    Raises:
        UserError: the position is outside the image, or a stage, block, head or name does not exist; says which do. The
            model has nothing to show; says why.
    """
    place = view.place(at)
    recording = see(model, view.tensor, wanted_modules(model, names) if names else lambda name: True)
    require_layers(type(model).__name__, recording)
    chosen = list(recording.layers) if names else choose(recording, stages, blocks)
    for layer in chosen:
        for head in heads:
            _check_head(layer, head)
    return [one for layer in chosen for one in _of_layer(model, layer, view, place, heads)]


def require_layers(name: str, recording: Recording) -> None:
    """UserError where nothing is recorded of the model of that name, which says why."""
    if recording.layers:
        return
    reasons = {each.reason: each.name for each in reversed(recording.unshown)}
    if not reasons:
        where = "the layers that were asked for" if recording.others else "it"
        raise UserError(f"{name} has no affinity to show: nothing in {where} was seen to gather from other places")
    (reason, first), *others = reversed(reasons.items())
    counted = sum(each.reason == reason for each in recording.unshown)
    more = f" and {counted - 1} more" if counted > 1 else ""
    rest = f"; and {len(others)} other reasons" if others else ""
    raise UserError(f"{name} has no affinity to show: {first}{more}: {reason}{rest}")


def choose(recording: Recording, stages: Sequence[int] | None, blocks: Sequence[int] | None) -> list[RecordedLayer]:
    """The layers of chosen stages and blocks, as `gather` explains. UserError for one that does not exist.

    Of a block that mixes more than once, by default what depends on the image. Of a part without stages, such as a
    detector's decoder, the last layer by default, and none of its layers where stages or blocks are chosen.
    """
    by_stage: dict[int, dict[int, list[RecordedLayer]]] = {}
    for layer in recording.layers:
        if not layer.part:
            stage, block = stage_and_block(layer.name)
            by_stage.setdefault(stage, {}).setdefault(block, []).append(layer)
    if stages is None and blocks is None:
        parts = {layer.part: layer for layer in recording.layers if layer.part}
        lasts = [list(of_stage.values()) for of_stage in by_stage.values()]
        if len(by_stage) == 1 and not parts:
            (able,) = lasts
            return [_main(able[index]) for index in sorted({0, len(able) // 2, len(able) - 1})]
        return [*(_main(of_stage[-1]) for of_stage in lasts), *parts.values()]
    hidden = {stage_and_block(each.name): each for each in recording.unshown}
    chosen = []
    for stage in sorted(set(stages or by_stage)):
        own = [block for other, block in hidden if other == stage]
        if stage not in by_stage and not own:
            raise UserError(f"stage {stage} does not exist; the model's stages are {_listed(by_stage)}")
        found = by_stage.get(stage, {})
        for block in sorted(set(blocks or found or own)):
            if block in found:
                chosen += found[block]
            elif (stage, block) in hidden:
                raise UserError(f"{hidden[stage, block].name}: {hidden[stage, block].reason}")
            else:
                raise UserError(f"block {block} of stage {stage} does not exist; its blocks are {_listed(found)}")
    return chosen


@torch.no_grad()
def parts(layer: RecordedLayer, positions: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """By term and, last and under "mixed", of their weighted sum: rows (M, R, N), not yet weighted, and weights (M,).

    All have the heads of the whole layer.
    """
    heads = math.lcm(*(count for term in layer.terms for count in (len(term.weight), term.form.heads)))
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for term in layer.terms:
        rows = term.form.rows(positions)
        rows = rows.repeat_interleave(heads // len(rows), 0)
        found[term.name] = rows, spread(term.weight.to(rows), heads).expand(heads)
    mixed = torch.stack([weight[:, None, None] * rows for rows, weight in found.values()]).sum(0)
    return found | {"mixed": (mixed, mixed.new_ones(heads))}


def heads_of(layer: RecordedLayer) -> int:
    """The heads that a person chooses from: those of the dynamic affinity, else of the first.

    The other affinity of a mixture may have more, such as one kernel per channel: a head stands for all of its own.
    """
    return next((term for term in layer.terms if term.name == "dynamic"), layer.terms[0]).form.heads


def _of_layer(
    model: nn.Module, layer: RecordedLayer, view: View, place: tuple[float, float], heads: Sequence[Head]
) -> list[Gathering]:
    """What chosen heads gather from at a place in pixels of the network's image."""
    stride, grid = stride_of(model, layer.name, view.size, layer.grid), layer.target_grid or layer.grid
    own = stride if layer.target_grid is None else stride_of(model, "", view.size, grid)
    row, column = (min(int(each / own), count - 1) for each, count in zip(place, grid, strict=True))
    position = 0 if layer.targets else _before(layer) + row * grid[1] + column
    found, count = parts(layer, torch.tensor([position])), heads_of(layer)
    return [
        Gathering(
            layer=layer,
            head=head,
            heads=count,
            row=None if layer.targets else row,
            column=None if layer.targets else column,
            stride=stride,
            own_stride=own,
            maps={name: _map(rows, weight, head, count, layer) for name, (rows, weight) in found.items()},
        )
        for head in heads
    ]


def _before(layer: RecordedLayer) -> int:
    return layer.target_prefix if layer.target_grid else layer.prefix


def _main(of_block: Sequence[RecordedLayer]) -> RecordedLayer:
    """Of a block's layers the last that depends on the image, else the last."""
    able = [layer for layer in of_block if any(term.name == "dynamic" for term in layer.terms)]
    return (able or of_block)[-1]


def _map(rows: Tensor, weights: Tensor, head: Head, count: int, layer: RecordedLayer) -> Map:
    rows = rows[:, 0].float().cpu()
    if head != "mean":
        rows, weights = rows.unflatten(0, (count, -1))[head - 1], weights.unflatten(0, (count, -1))[head - 1]
    sizes = bool((rows < 0).any() and (rows != rows[0]).any())
    row = (rows.abs() if sizes else rows).mean(0)
    values = row[layer.prefix :].unflatten(0, layer.grid)
    return Map(values=values, prefix=row[: layer.prefix], weight=weights.mean().item(), sizes=sizes)


def _check_head(layer: RecordedLayer, head: Head) -> None:
    count = heads_of(layer)
    if head != "mean" and not 1 <= head <= count:
        existing = f"1 to {count}" if count > 1 else "1 alone"
        raise UserError(f"head {head} of {layer.label} does not exist; its heads are {existing}, or 'mean'")


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(str(number) for number in sorted(numbers))
