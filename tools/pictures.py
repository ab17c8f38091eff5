"""Make the pictures of README.md and docs/gallery.md: `python -m tools.pictures [NAME...]`, as `make pictures` does.

idea       three mixers and their mixture, learnt for one task on photographs (a minute)
fractions  results/imagenette, Table 3's
speed      results/amd-epyc/bench.csv
mixers     every mixer over a photograph, and the page docs/mixers.md (two minutes)
digits     predictions, affinity, kernels and curves of the quickstart's run
"""

import argparse
import csv
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from contagg.benchmark.picture import accuracy_against_speed
from contagg.errors import UserError
from contagg.figures import BLUE, VERMILION, new_figure, percent, plain_axes, save_figure
from contagg.lab.intervals import interval
from tools.comparisons import Found, find, read_twins

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "pictures"
RUN = ROOT / "runs" / "digits" / "container_light_tiny"
MOST_BYTES = 300_000
FRACTIONS = {10: "table3_10", 50: "table3_50", 100: "figure1"}
"""Per cent of the training images, and where its runs are: a name in tools/twins.yaml."""


def publish(path: Path, figure: Figure | None = None, source: Path | None = None) -> None:
    """Write a figure, or a picture that is there already, in 256 colours. UserError for one of over MOST_BYTES."""
    if figure is not None:
        save_figure(figure, path)
    with Image.open(source or path) as image:
        # Of Pillow's ways the one that keeps rare colours, such as a mark's; dithering would double the size.
        small = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise UserError(f"{path} has {size} bytes, more than the {MOST_BYTES} that a page should load")
    print(f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}  {size // 1000} kB")


def idea(folder: Path, run: Path) -> None:
    """`idea.png`."""
    from tools.idea import cat, figure_of, learnt

    photograph = cat()
    publish(folder / "idea.png", figure_of(photograph, learnt(photograph)))


def fractions(folder: Path, run: Path) -> None:
    """`fractions.png`: accuracy on Imagenette against the part of it that was learnt from (Table 3)."""
    publish(folder / "fractions.png", fractions_figure(parts_run()))


def parts_run() -> dict[int, Found]:
    """By per cent of the training images, what the twins of Table 3 say, of those that have been run."""
    twins = {twin.name: twin for twin in read_twins()}
    found = {part: find(twins[name], ROOT / "results") for part, name in FRACTIONS.items()}
    return {part: each for part, each in found.items() if each.curves.keys() >= {"CONTAINER-LIGHT", "DeiT"}}


def fractions_figure(found: Mapping[int, Found]) -> Figure:
    """By per cent of the training images, a line a network, with its accuracies and intervals at its marks."""
    figure = new_figure(6.4, 4.2)
    axes = figure.subplots()
    for arm, name, colour, side in (
        ("CONTAINER-LIGHT", "container_light_tiny", VERMILION, 1),
        ("DeiT", "DeiT of the same size", BLUE, -1),
    ):
        scores = {part: interval(list(each.last(arm).values()), each.noise) for part, each in found.items()}
        means = [score.mean for score in scores.values()]
        reach = [0.0 if math.isnan(score.low) else score.high - score.mean for score in scores.values()]
        axes.errorbar(list(scores), means, reach, fmt="o-", color=colour, capsize=3, linewidth=2)
        style: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "center", "color": colour}
        for part, mean, beyond in zip(scores, means, reach, strict=True):
            axes.annotate(
                percent(mean / 100),
                (part, mean + side * beyond),
                (-8 if part == min(scores) else 0, side * 11),
                **style,
            )
        middle = (list(scores)[-1] + list(scores)[-2]) / 2, (means[-1] + means[-2]) / 2
        axes.annotate(name, middle, (0, side * 24), **style)
    axes.set_xticks(list(found))
    axes.set_xlim(-2, max(found) + 7)
    axes.margins(y=0.18)
    title = "Imagenette, 64 px, 10 epochs; mean and 95 % interval over seeds"
    plain_axes(axes, "share of the 9,469 training images, %", "validation accuracy, %", title)
    return figure


def speed(folder: Path, run: Path) -> None:
    """`speed.png`: reported accuracy against measured images/s."""
    with (ROOT / "results" / "amd-epyc" / "bench.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["reported_top1"]]
    numbers = ("images_per_second", "reported_top1")
    points = [row | {name: float(row[name]) for name in numbers} for row in rows]
    publish(folder / "speed.png", accuracy_against_speed(points, "2 cores of an AMD EPYC, 224 px"))


def mixers(folder: Path, run: Path) -> None:
    """`mixers.png`, and the page beside the folder."""
    from contagg.files import write_output
    from contagg.inspect.mixers import all_words
    from contagg.inspect.mixers_figure import mixers_figure
    from contagg.inspect.mixers_table import flower, measured, token_at
    from contagg.inspect.view import CENTRE
    from tools.mixers_page import page

    steps = 100
    found = measured(all_words(), flower(), steps=steps)
    publish(folder / "mixers.png", mixers_figure(found, flower(), token_at(flower(), CENTRE), steps))
    write_output(folder.parent / "mixers.md", page(found, steps).encode())


def digits(folder: Path, run: Path) -> None:
    """`digits_*.png`, from a run of the quickstart. UserError where there is none."""
    from contagg.checkpoints.models import open_model
    from contagg.inspect.static import static_figure, static_rows

    if not (run / "figures" / "predictions.png").is_file():
        raise UserError(f"{run} is no finished run of digits: make quickstart first, or name one with --run")
    for name in ("predictions", "affinity", "curves"):
        publish(folder / f"digits_{name}.png", source=run / "figures" / f"{name}.png")
    model = open_model(str(run))[0]
    publish(folder / "digits_static.png", static_figure(static_rows(model)))


PICTURES: dict[str, Callable[[Path, Path], None]] = {
    "idea": idea,
    "fractions": fractions,
    "speed": speed,
    "mixers": mixers,
    "digits": digits,
}


def main(arguments: list[str] | None = None) -> None:
    """Make all pictures, or those named."""
    parser = argparse.ArgumentParser(prog="python -m tools.pictures", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PICTURES)} (default: all)")
    parser.add_argument("--run", type=Path, default=RUN, help="the quickstart's run folder (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to write (default: %(default)s)")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in PICTURES]:
        parser.error(f"no picture {unknown[0]!r}; there are {', '.join(PICTURES)}")
    options.folder.mkdir(parents=True, exist_ok=True)
    try:
        for name in options.names or PICTURES:
            PICTURES[name](options.folder, options.run)
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
