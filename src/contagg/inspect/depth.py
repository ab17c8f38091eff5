"""Layers in numbers through the depth of networks, over images: whether locality emerges early is Figure 1's claim."""

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import stdtrit
from torch import Tensor, nn

from contagg.figures import PALETTE, new_figure, plain_axes
from contagg.inspect.forms import RecordedLayer
from contagg.inspect.gathering import require_layers
from contagg.inspect.measures import measure
from contagg.inspect.seeing import see
from contagg.output import table

MEASURES = ("distance", "within3", "entropy", "rank", "toeplitz", "alpha")
TITLES = {
    "distance": "mean distance (part of the grid's longer side)",
    "within3": "share within 3 x 3",
    "entropy": "entropy (1: all alike)",
    "rank": "effective rank (part of the rows)",
    "toeplitz": "Toeplitz share (same at all places)",
    "alpha": "share of the dynamic part, alpha : beta",
}


@dataclass(kw_only=True)
class Depth:
    """A layer's numbers, one an image.

    Attributes:
        name, label: Of the layer.
        dynamic: Whether a part of it depends on the image.
        values: By measure; empty where the layer has no such number.
    """

    name: str
    label: str
    dynamic: bool
    values: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in MEASURES})

    def mean(self, measure: str) -> tuple[float, float] | None:
        """The mean over images and half of its 95 % interval by Student's t (0 of one image); None of no number."""
        found = self.values[measure]
        if not found:
            return None
        if len(found) == 1:
            return found[0], 0.0
        error = statistics.stdev(found) / math.sqrt(len(found))
        return statistics.fmean(found), float(stdtrit(len(found) - 1, 0.975)) * error


def through_depth(
    model: nn.Module, images: Iterable[Tensor], wanted: Callable[[str], bool] = lambda name: True
) -> list[Depth]:
    """See a model on each image (1, C, H, W), and take its layers' numbers (`contagg.inspect.measures`).

    Layers where class tokens alone gather are left out. Queries of a detector lie nowhere: they have no distances.

    Raises:
        UserError: the model has nothing to show.
    """
    found: dict[str, Depth] = {}
    for image in images:
        recording = see(model, image, wanted)
        require_layers(type(model).__name__, recording)
        for layer in recording.layers:
            if not layer.targets or layer.part:
                dynamic = any(term.name == "dynamic" for term in layer.terms)
                depth = found.setdefault(layer.name, Depth(name=layer.name, label=layer.label, dynamic=dynamic))
                _count(depth, layer)
    return list(found.values())


def _count(depth: Depth, layer: RecordedLayer) -> None:
    numbers = vars(measure(layer)) | {"alpha": _share(layer)}
    for name in MEASURES:
        if numbers[name] is not None and math.isfinite(numbers[name]):
            depth.values[name].append(numbers[name])


def _share(layer: RecordedLayer) -> float | None:
    """|alpha| / (|alpha| + |beta|), means over heads; None of what is no mixture."""
    if len(layer.terms) != 2:
        return None
    first, second = (float(term.weight.abs().mean()) for term in layer.terms)
    return first / max(first + second, 1e-30)


def depth_table(models: Sequence[tuple[str, Sequence[Depth]]]) -> str:
    """A line a layer, means over the images with their 95 % intervals."""
    lines: list[tuple[str, ...]] = [("model", "layer", *MEASURES)]
    for name, layers in models:
        for layer in layers:
            cells = [_cell(layer.mean(measure)) for measure in MEASURES]
            lines.append((name, layer.label, *cells))
    return "\n".join([table(lines, left=len(lines[0])), *(f"{name}: {title}" for name, title in TITLES.items())])


def _cell(found: tuple[float, float] | None) -> str:
    if found is None:
        return ""
    return f"{found[0]:.3f}" if found[1] == 0 else f"{found[0]:.3f} ± {found[1]:.3f}"


def depth_rows(models: Sequence[tuple[str, Sequence[Depth]]]) -> Iterator[tuple[object, ...]]:
    """Of a CSV, a line a layer and measure: mean, half of the 95 % interval, and number of images."""
    yield ("model", "depth", "layer", "label", "dynamic", "measure", "mean", "half_interval", "images")
    for name, layers in models:
        for number, layer in enumerate(layers, start=1):
            for each in MEASURES:
                if (found := layer.mean(each)) is not None:
                    key = (name, number, layer.name, layer.label, int(layer.dynamic), each)
                    yield (*key, *found, len(layer.values[each]))


def depth_figure(models: Sequence[tuple[str, Sequence[Depth]]], *, untrained: bool = False) -> Figure:
    """A panel a measure, a line a model through its layers; full points depend on the image, hollow ones do not."""
    shown = [name for name in MEASURES if any(layer.values[name] for _, layers in models for layer in layers)]
    title = "Layers through the depth of the network: full points depend on the image, hollow ones do not"
    figure = new_figure(12.5, 3.4 * -(-len(shown) // 3) + 0.6, title, untrained=untrained)
    axes = figure.subplots(-(-len(shown) // 3), 3, squeeze=False)
    for each, name in zip(axes.flat, shown, strict=False):
        plain_axes(each, "layer", title=TITLES[name], whole=True)
        for index, (model, layers) in enumerate(models):
            found = [(n, layer.dynamic, layer.mean(name)) for n, layer in enumerate(layers, start=1)]
            points = [(n, dynamic, *numbers) for n, dynamic, numbers in found if numbers is not None]
            if points:
                _draw_line(each, model, PALETTE[index % len(PALETTE)], points)
        each.set_xlim(0.5, max(len(layers) for _, layers in models) + 0.5)
        each.set_ylim(0, each.get_ylim()[1] if name == "distance" else 1.03)
    for each in axes.flat[len(shown) :]:
        each.remove()
    if len(models) > 1:
        axes.flat[0].legend(fontsize=8, frameon=False)
    return figure


def _draw_line(axes: Axes, model: str, colour: str, points: Sequence[tuple[int, bool, float, float]]) -> None:
    numbers, _, means, halves = zip(*points, strict=True)
    axes.plot(numbers, means, color=colour, linewidth=1.2, label=model, clip_on=False)
    lower, upper = ([m + s * h for m, h in zip(means, halves, strict=True)] for s in (-1, 1))
    axes.fill_between(numbers, lower, upper, color=colour, alpha=0.2, linewidth=0)
    for full in (True, False):
        some = [(n, mean) for n, dynamic, mean, _ in points if dynamic == full]
        if some:
            face = colour if full else "white"
            axes.plot(*zip(*some, strict=True), "o", color=colour, markerfacecolor=face, markersize=5, clip_on=False)
