"""From a recording to what the page is told: layers, their forms as small numbers, and the numbers beside them."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor, nn

from contagg.affinity.base import Grid
from contagg.errors import printable
from contagg.explorer.fields import Field, fields
from contagg.explorer.packing import Store, pack, pack_tensor, rounding_error
from contagg.explorer.progress import Progress, Seeing
from contagg.inspect.forms import RecordedLayer, Recording, Term, Unshown
from contagg.inspect.gathering import require_layers
from contagg.inspect.measures import Measures, gathering, measure
from contagg.inspect.view import Tell

NO_FIELDS = Unshown(
    name="through the network, to the pixels",
    reason="its layers are not one way from the image to the end, or what the last gives does not lie on their grid",
)
ROUNDED_PLACES = 16
"""Rows of a layer whose rounding to 8 bits is measured."""


@dataclass(frozen=True, kw_only=True)
class Explored:
    """One model on one image.

    Attributes:
        name, about: For people: what was explored, and a few words more of it.
        untrained: Whether its weights are random.
        recording: What it mixes.
        measures: Of each layer.
        fields: What places at its end depend on.
        rounding: Of each layer, the largest sum of |differences| over the sum of |entries| that 8 bits make in a row.
        size: Height and width of the image that it was shown.
    """

    name: str
    about: str
    untrained: bool
    recording: Recording
    measures: Sequence[Measures]
    fields: Sequence[Field]
    rounding: Sequence[float]
    size: Grid

    def numbers(self) -> dict[str, Any]:
        """What `--json` writes of it."""
        return {
            "model": self.name,
            "layers": [
                {
                    "name": layer.name,
                    "label": layer.label,
                    "grid": layer.grid,
                    "prefix": layer.prefix,
                    "heads": layer.heads,
                    "weights": {term.name: term.weight.tolist() for term in layer.terms},
                    "residual": layer.residual,
                    "rounding": rounding,
                    **_finite(asdict(measures)),
                }
                for layer, measures, rounding in zip(self.recording.layers, self.measures, self.rounding, strict=True)
            ],
            "fields": [
                {"row": field.row, "column": field.column, "grid": field.grid, "agreement": field.agreement}
                for field in self.fields
            ],
            "unshown": [asdict(each) for each in self.recording.unshown],
        }


def explored(
    model: nn.Module,
    image: Tensor,
    see: Callable[[nn.Module, Tensor, Tell], Recording],
    *,
    name: str,
    about: str = "",
    untrained: bool = False,
    count: int = 9,
) -> Explored:
    """Run a model on an image (1, C, H, W) and take all numbers of it.

    Args:
        see: What records it, and tells how far it is.
        count: Of places whose fields are taken.
    """
    size = (image.shape[2], image.shape[3])
    recording = see(model, image, Seeing(name, size))
    require_layers(name, recording)
    found = numbers_of(recording, size, name=name, about=about, untrained=untrained)
    through = fields(model, image, recording.layers, count, Progress())
    if count and not through:
        found = replace(found, recording=replace(recording, unshown=[*recording.unshown, NO_FIELDS]))
    return replace(found, fields=through)


def numbers_of(recording: Recording, size: Grid, *, name: str, about: str = "", untrained: bool = False) -> Explored:
    """The numbers of recorded layers, without fields; says how far it is where that takes long.

    `size` is that of the image.
    """
    tell, measures, rounding = Progress(), [], []
    for index, layer in enumerate(recording.layers):
        tell(f"layer {index + 1} of {len(recording.layers)}, {layer.name}", index / len(recording.layers))
        measures.append(measure(layer))
        positions, _ = gathering(layer, ROUNDED_PLACES)
        rounding.append(rounding_error(layer.mixed, positions))
    return Explored(
        name=printable(name),
        about=printable(about),
        untrained=untrained,
        recording=recording,
        measures=measures,
        fields=(),
        rounding=rounding,
        size=size,
    )


def packed(model: Explored, store: Store) -> dict[str, Any]:
    """What the page is told of a model, its tensors in the store."""
    tell, layers, count = Progress(), [], len(model.rounding)
    for layer, measures, rounding in zip(model.recording.layers, model.measures, model.rounding, strict=True):
        layers.append(_layer(layer, measures, rounding, model.size, store))
        tell(f"{model.name}: layer {len(layers)} of {count} is in the page", len(layers) / count)
    return {
        "name": model.name,
        "about": model.about,
        "untrained": model.untrained,
        "first": _most_telling(model.recording.layers),
        "layers": layers,
        "fields": [_field(field, model.size, store) for field in model.fields],
        "unshown": [
            {"name": printable(each.name), "reason": printable(each.reason)} for each in model.recording.unshown
        ],
    }


def _most_telling(layers: Sequence[RecordedLayer]) -> int:
    """The layer to begin with: of those with a dynamic part the one of the finest grid that is the last such."""
    dynamic = [i for i, layer in enumerate(layers) if any("dynamic" in term.name for term in layer.terms)]
    chosen = dynamic or range(len(layers))
    return max(chosen, key=lambda index: (math.prod(layers[index].grid) >= 100, index), default=0)


def _layer(layer: RecordedLayer, measures: Measures, rounding: float, size: Grid, store: Store) -> dict[str, Any]:
    source = {"grid": layer.grid, "prefix": layer.prefix, "extent": _extent(layer.grid, size)}
    target = source
    if layer.target_grid is not None:
        extent = _extent(layer.target_grid, size)
        target = {"grid": layer.target_grid, "prefix": layer.target_prefix, "extent": extent}
    stage = re.match(r"stage \d+", layer.label)
    return {
        "name": printable(layer.name),
        "label": printable(layer.label),
        "stage": stage[0] if stage else "",
        "residual": layer.residual,
        "source": source,
        "target": target,
        "queries": [printable(name) for name in layer.targets],
        "terms": [_term(term, store) for term in layer.terms],
        "beside": [_term(term, store) for term in layer.beside],
        "measures": _finite(asdict(measures)),
        "rounding": rounding,
    }


def _term(term: Term, store: Store) -> dict[str, Any]:
    weight = pack_tensor(term.weight.detach().float(), store)
    return {"name": printable(term.name), "weight": weight, "form": pack(term.form, store)}


def _extent(grid: Grid, size: Grid) -> list[float]:
    """How much of the image a grid covers: more than 1 where zeros fill its last patches."""
    covers = []
    for pixels, count in zip(size, grid, strict=True):
        stride = 2 ** math.ceil(math.log2(pixels / count) - 1e-9)
        # Filled up by less than one patch, or else the stride is no power of two.
        covers.append(count * stride / pixels if count * stride - pixels < stride else 1.0)
    return covers


def _field(field: Field, size: Grid, store: Store) -> dict[str, Any]:
    maps = {name: pack_tensor(getattr(field, name).contiguous(), store) for name in ("composed", "true")}
    return {
        "row": field.row,
        "column": field.column,
        "grid": field.grid,
        "extent": _extent(field.grid, size),
        "agreement": field.agreement,
        **maps,
    }


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
