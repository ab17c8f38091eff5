"""Accuracy as reported against measured images a second."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

OURS, OTHERS = "#D55E00", "#0072B2"
"""Two of Okabe and Ito's colours."""


def accuracy_against_speed(points: Sequence[Mapping[str, Any]], device: str) -> Figure:
    """A line a network: its plain form as a hollow mark, its fastest as a filled one, with its name.

    Args:
        points: `model`, `form`, `precision`, `images_per_second` and `reported_top1` of each measurement.
        device: For the title.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    models = {model: [p for p in points if p["model"] == model] for model in dict.fromkeys(p["model"] for p in points)}
    best = {model: max(own, key=lambda point: point["images_per_second"]) for model, own in models.items()}
    for model, own in models.items():
        fastest = best[model]
        plain = next((point for point in own if point["form"] == "plain"), fastest)
        colour = OURS if model.startswith("container") else OTHERS
        speeds = [plain["images_per_second"], fastest["images_per_second"]]
        axes.plot(speeds, [fastest["reported_top1"]] * 2, color=colour, linewidth=1.5, alpha=0.5)
        axes.plot(speeds[0], fastest["reported_top1"], "o", color=colour, markerfacecolor="white", markersize=7)
        axes.plot(speeds[1], fastest["reported_top1"], "o", color=colour, markersize=7)
        # A name stands above its mark, and below it where another mark is near above.
        near = any(
            abs(other["images_per_second"] - speeds[1]) < 0.2 * speeds[1]
            and 0 < other["reported_top1"] - fastest["reported_top1"] < 1
            for other in best.values()
        )
        axes.annotate(
            model,
            (speeds[1], fastest["reported_top1"]),
            xytext=(0, -15 if near else 8),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=colour,
        )
    axes.set_xlabel("images a second (hollow: as it is, filled: its fastest form)")
    axes.set_ylabel("ImageNet top-1 as reported, %")
    axes.set_title(device, fontsize=10)
    axes.grid(alpha=0.3)
    axes.margins(x=0.15, y=0.15)
    return figure
