"""Names in the picture of accuracy against speed stand at their marks and hide nothing."""

import csv
import itertools
from pathlib import Path

import pytest
from matplotlib.transforms import Bbox

from contagg.benchmark.picture import OTHERS, OURS, accuracy_against_speed

MEASURED = Path(__file__).parents[2] / "results" / "amd-epyc" / "bench.csv"


def measured() -> list[dict]:
    with MEASURED.open(newline="") as file:
        return [
            line
            | {"images_per_second": float(line["images_per_second"]), "reported_top1": float(line["reported_top1"])}
            for line in csv.DictReader(file)
            if line["reported_top1"]
        ]


def crowded() -> list[dict]:
    """Networks whose marks are some pixels apart."""
    return [
        {
            "model": f"network_{index}",
            "variant": "plain",
            "images_per_second": 20.0 + index,
            "reported_top1": 80 + height,
        }
        for index, height in enumerate((0.0, 0.05, 0.4, 5.0))
    ]


@pytest.mark.parametrize("points", [measured(), crowded()], ids=["Table 1", "crowded"])
def test_names_stand_at_their_marks_and_hide_no_other(points: list[dict]) -> None:
    figure = accuracy_against_speed(points, "a device")
    figure.draw_without_rendering()
    [axes] = figure.axes
    frame, boxes = axes.get_window_extent(), []
    for text in axes.texts:
        own = [point for point in points if point["model"] == text.get_text()]
        marks = [(point["images_per_second"], point["reported_top1"]) for point in own]
        assert text.xy in (max(marks), marks[0]), "of its fastest variant, or of the plain one"
        box, (x, y) = text.get_window_extent(), axes.transData.transform(text.xy)
        away = max(box.x0 - x, x - box.x1, box.y0 - y, y - box.y1)
        assert away <= 10 * figure.dpi / 72
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
        boxes.append(box)
    assert len(boxes) == len({point["model"] for point in points})
    assert all(Bbox.intersection(one, other) is None for one, other in itertools.combinations(boxes, 2))


def test_marks_are_plain_and_fastest_and_ours_are_told_apart() -> None:
    figure = accuracy_against_speed(
        [
            {"model": "container_light", "variant": "plain", "images_per_second": 2.0, "reported_top1": 82},
            {"model": "container_light", "variant": "compiled", "images_per_second": 5.0, "reported_top1": 82},
            {"model": "resnet50", "variant": "fused", "images_per_second": 3.0, "reported_top1": 76},
        ],
        "a device",
    )
    hollow, filled = (
        [line for line in figure.axes[0].lines if line.get_marker() == "o" and colour(line)]
        for colour in (
            lambda line: line.get_markerfacecolor() == "white",
            lambda line: line.get_markerfacecolor() != "white",
        )
    )
    assert [line.get_xdata()[0] for line in hollow] == [2, 3] and [line.get_xdata()[0] for line in filled] == [5, 3]
    assert [line.get_color() for line in filled] == [OURS, OTHERS]
