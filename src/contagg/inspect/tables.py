"""What the commands print and save beside their figures."""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from contagg.files import as_csv, write_output
from contagg.inspect.gathering import Gathering, Head
from contagg.inspect.stages import stage_and_block
from contagg.inspect.static import StaticRow
from contagg.inspect.statistics import Statistics, sample_positions, statistics
from contagg.output import table

HEADER = ("layer", "part", "weight", "distance", "entropy", "in 3x3", "in 5x5")
NOTE = "means over heads and positions: distance in tokens, entropy in nats, share of |A| within a window"


def affinity_table(gatherings: Sequence[Gathering]) -> str:
    """Statistics of each layer of a figure, over all heads and positions spread over the image."""
    lines = []
    for layer in {gathering.layer.name: gathering.layer for gathering in gatherings}.values():
        weights = _weights([(term.name, term.weight) for term in layer.terms])
        for part, numbers in statistics(layer, sample_positions(layer.grid)).items():
            if part in weights or len(weights) > 1:
                lines.append(_line(layer.label, part, weights.get(part, ""), numbers))
    return _table(lines)


def static_table(rows: Sequence[StaticRow]) -> str:
    """Statistics of static affinities, one line per row of the figure."""
    return _table(
        _line(
            f"{row.number}: {row.layer.label}",
            row.term.name,
            ", ".join(_weights([(term.name, term.weight) for term in row.layer.terms()]).values()),
            row.statistics,
        )
        for row in rows
    )


def save_rows(gatherings: Sequence[Gathering], path: str | Path) -> None:
    """The numbers of a figure, as .csv (one line per token) or .npz (an array (H, W) a map).

    Maps are not yet weighted, and means over kernels of both signs are of |A|. Class tokens are in the CSV with row -1,
    and in the npz in arrays of their own.
    """
    path = Path(path)
    write_output(path, _npz(gatherings) if path.suffix == ".npz" else as_csv(_rows(gatherings)))


def _rows(gatherings: Sequence[Gathering]) -> Iterator[tuple[object, ...]]:
    yield ("layer", "stage", "block", "head", "part", "weight", "at_row", "at_column", "row", "column", "value")
    for one in gatherings:
        stage, block = ("", "") if one.layer.part else stage_and_block(one.layer.name)
        for part, shown in one.maps.items():
            key = (one.layer.name, stage, block, one.head, part, shown.weight, one.row, one.column)
            yield from ((*key, -1, index, value) for index, value in enumerate(shown.prefix.tolist()))
            for row, line in enumerate(shown.values.tolist()):
                yield from ((*key, row, column, value) for column, value in enumerate(line))


def _npz(gatherings: Sequence[Gathering]) -> bytes:
    content = io.BytesIO()
    arrays: dict[str, Any] = {}
    for one in gatherings:
        for part, shown in one.maps.items():
            name = f"{_layer(one, gatherings)}_{_head(one.head)}_{part.replace(' ', '')}"
            arrays[name] = shown.values.numpy()
            if len(shown.prefix):
                arrays[f"{name}_prefix"] = shown.prefix.numpy()
    np.savez(content, **arrays)
    return content.getvalue()


def _layer(one: Gathering, others: Sequence[Gathering]) -> str:
    """By stage and block, or by its name where the block has several."""
    place = stage_and_block(one.layer.name)
    alike = {other.layer.name for other in others if stage_and_block(other.layer.name) == place}
    numbered = len(alike) == 1 and not one.layer.part
    return f"stage{place[0]}_block{place[1]}" if numbered else one.layer.name.replace(" ", "_")


def _head(head: Head) -> str:
    return "mean" if head == "mean" else f"head{head}"


def _weights(terms: Sequence[tuple[str, Tensor]]) -> Mapping[str, str]:
    """A term's weight in words, by its name; one gate per head gives its range."""
    letters = ("alpha", "beta") if len(terms) == 2 else ("",)
    return {name: _weight(letter, weight.tolist()) for letter, (name, weight) in zip(letters, terms, strict=True)}


def _weight(name: str, values: Sequence[float]) -> str:
    if not name:
        return ""
    low, high = min(values), max(values)
    return f"{name} {low:.3f}" if len(values) == 1 else f"{name} {low:.3f} to {high:.3f}"


def _line(label: str, part: str, weight: str, numbers: Statistics) -> tuple[str, ...]:
    measures = (numbers.distance, numbers.entropy, numbers.within3, numbers.within5)
    return (label, part, weight, *(f"{measure.mean().item():.3f}" for measure in measures))


def _table(lines: Iterable[tuple[str, ...]]) -> str:
    return f"{table([HEADER, *lines], left=3)}\n{NOTE}"
