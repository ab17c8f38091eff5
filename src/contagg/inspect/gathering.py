"""What one position of an image gathers from, for chosen stages, blocks and heads: the numbers behind a figure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from contagg.errors import UserError
from contagg.inspect.recording import Layer, Part, RecordedAggregation, layers, record
from contagg.inspect.view import Position, View, shown, stride_of

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
        layer: The aggregation, with its input.
        head: From 1, or "mean".
        heads: How many there are to choose from.
        row, column: The position's token on the grid.
        stride: Pixels of the network's image along a token's side.
        maps: By name: "dynamic", "static", then their weighted sum "mixed".
    """

    layer: RecordedAggregation
    head: Head
    heads: int
    row: int
    column: int
    stride: float
    maps: dict[str, Map]


def gather(
    model: nn.Module,
    view: View,
    at: Position,
    *,
    stages: Sequence[int] | None = None,
    blocks: Sequence[int] | None = None,
    heads: Sequence[Head] = ("mean",),
) -> list[Gathering]:
    """Run a model on a view and take the rows of A at a position.

    Args:
        stages, blocks, heads: From 1. Stages alone mean all of their blocks, blocks alone those of all stages, neither
            the last block of each stage (of a plain transformer the first, the middle and the last).

    Raises:
        UserError: the position is outside the image, or a stage, block or head does not exist; says which do.
    """
    row, column = view.place(at)
    chosen = choose(layers(model), stages, blocks)
    for layer in chosen:
        for head in heads:
            _check_head(layer, head)
    with record(model, lambda layer: layer in chosen) as entries:
        shown(model, view)
    strides = [stride_of(model, entry.name, view.size, entry.grid) for entry in entries]
    return [one for pair in zip(entries, strides, strict=True) for one in _of_layer(*pair, (row, column), heads)]


def _of_layer(
    layer: RecordedAggregation, stride: float, at: tuple[float, float], heads: Sequence[Head]
) -> list[Gathering]:
    """What chosen heads gather from at a place in pixels of the network's image."""
    row, column = (min(int(place / stride), count - 1) for place, count in zip(at, layer.grid, strict=True))
    parts, count = layer.parts([layer.token(row, column)]), heads_of(layer)
    return [
        Gathering(
            layer=layer,
            head=head,
            heads=count,
            row=row,
            column=column,
            stride=stride,
            maps={name: _map(part, head, count, layer) for name, part in parts.items()},
        )
        for head in heads
    ]


def choose(found: list[Layer], stages: Sequence[int] | None, blocks: Sequence[int] | None) -> list[Layer]:
    """The layers of chosen stages and blocks, as `gather` explains. UserError for one that does not exist."""
    by_stage: dict[int, dict[int, Layer]] = {}
    for layer in found:
        by_stage.setdefault(layer.stage, {})[layer.block] = layer
    for stage in stages or ():
        if stage not in by_stage:
            raise UserError(f"stage {stage} does not exist; the model's stages are {_listed(by_stage)}")
    if stages is None and blocks is None:
        # Layers without an A are passed over, unless there is nothing else: then the answer says why.
        able = [layer for layer in found if layer.has_affinity] or found
        if len(by_stage) == 1:
            return [able[index] for index in sorted({0, len(able) // 2, len(able) - 1})]
        return list({layer.stage: layer for layer in able}.values())
    chosen = []
    for stage in sorted(set(stages or by_stage)):
        for block in sorted(set(blocks or by_stage[stage])):
            if block not in by_stage[stage]:
                raise UserError(
                    f"block {block} of stage {stage} does not exist; its blocks are {_listed(by_stage[stage])}"
                )
            chosen.append(by_stage[stage][block])
    return chosen


def heads_of(layer: Layer) -> int:
    """The heads that a person chooses from: those of the dynamic affinity, else of the first.

    The other affinity of a mixture may have more, such as one kernel per channel: a head stands for all of its own.
    """
    terms = layer.terms()
    return next((term for term in terms if term.affinity.dynamic), terms[0]).affinity.heads


def _map(part: Part, head: Head, count: int, layer: RecordedAggregation) -> Map:
    rows, weights = part.rows[0, :, 0].float().cpu(), part.weight
    if head != "mean":
        rows, weights = rows.unflatten(0, (count, -1))[head - 1], weights.unflatten(0, (count, -1))[head - 1]
    sizes = bool((rows < 0).any() and (rows != rows[0]).any())
    row = (rows.abs() if sizes else rows).mean(0)
    values = row[layer.prefix :].unflatten(0, layer.grid)
    return Map(values=values, prefix=row[: layer.prefix], weight=weights.mean().item(), sizes=sizes)


def _check_head(layer: Layer, head: Head) -> None:
    count = heads_of(layer)
    if head != "mean" and not 1 <= head <= count:
        existing = f"1 to {count}" if count > 1 else "1 alone"
        raise UserError(f"head {head} of {layer.label} does not exist; its heads are {existing}, or 'mean'")


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(str(number) for number in sorted(numbers))
