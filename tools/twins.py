"""`python -m tools.twins`: the paper's tables beside ours, as docs/results.md and its pictures.

tools/twins.yaml says which comparison stands for which table and what the paper has for each arm; the rows of
`contagg compare` under results/ say what was found. Nothing is trained and no data are needed: where there is no row
yet, the page says so and gives the command.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from contagg.errors import UserError
from contagg.figures import new_figure, plain_axes
from contagg.files import write_output
from contagg.lab.intervals import LEVEL, interval
from tools import figure1_right
from tools.comparisons import Entry, Found, Twin, find, order, passing, read_twins, told_apart, too_few, with_interval
from tools.pictures import publish

ROOT = Path(__file__).parent.parent
INTRODUCTION = """# The paper's tables, and ours beside them

ImageNet and COCO cannot be had on the machine that this was made on, so each table has a twin: networks of about a
million parameters, on real photographs, in minutes on a CPU. A twin cannot confirm the paper's figures. It can show
whether their order holds at that size.

Each mean is of the last epoch, with its 95 % interval over seeds: by one noise for all arms where there are three or
more, by the arm's or the pair's own seeds otherwise. Two rows are called different where a paired test by that noise
says so at 5 %, adjusted for the number of pairs (Holm). `python -m tools.twins` makes this page from the rows under
`results/`, which hold each run's keys, seed, data, figures, commit and device; how to get the photographs (DATA) is in
[reproducing](reproducing.md#the-photographs). What the paper does not have comes last. Of Caltech-101 are the
[weights in the package](weights.md), and no twin.
"""


def section(found: Found) -> str:
    """A twin's part of the page."""
    twin, first = found.twin, found.twin.rows[0]
    says = f"Paper: {twin.paper_says}. Here" if twin.paper_says else "Not in the paper. Here"
    lines = [f"## {twin.title}", "", f"{says}: {twin.here}.", ""]
    if not found.entries:
        return "\n".join([*lines, "Not run yet.", "", *_command(twin)])
    head = ["network", *["paper"] * bool(twin.paper_says), "here", "seeds"]
    if twin.rows[1:]:
        head += [f"from {first.name}", *["epochs to its best"] * twin.curves]
    lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(_line(found, entry) for entry in twin.rows)]
    said = order(found) or too_few(found) if twin.paper_says else told_apart(found)
    lines += ["", str(said), *["", twin.note] * bool(twin.note), ""]
    if found.drawn:
        lines += [f"![{twin.title}](pictures/twin_{twin.name}.png)", ""]
    return "\n".join([*lines, *_command(twin)])


def _line(found: Found, entry: Entry) -> str:
    """An arm's line of the table."""
    twin, first = found.twin, found.twin.rows[0]
    values, reference = found.last(entry.arm), found.last(first.arm)
    cells = [entry.name]
    if twin.paper_says:
        cells += ["" if entry.paper is None else f"{entry.paper:.1f}"]
    cells += [with_interval(interval(list(values.values()), found.noise)) if values else "no run yet", str(len(values))]
    if not twin.rows[1:]:
        return f"| {' | '.join(cells)} |"
    compared = entry is not first and bool(values.keys() & reference.keys())
    cells += [with_interval(found.difference(entry), "+") if compared else ""]
    if twin.curves:
        cells += [passing(found.curves[entry.arm], found.curves[first.arm]) if compared else ""]
    return f"| {' | '.join(cells)} |"


def _command(twin: Twin) -> list[str]:
    return ["```", twin.command.replace(" --a", " \\\n  --a"), "```", ""]


def picture(found: Found) -> Figure:
    """The paper's figures beside ours with intervals; of curves, by epoch with the seeds' range."""
    figure = new_figure(6.4, 4.2 if found.twin.curves else 1 + 0.45 * len(found.entries))
    (_draw_curves if found.twin.curves else _draw_scores)(found, figure.subplots())
    return figure


def _draw_curves(found: Found, axes: Axes) -> None:
    epochs: Sequence[int] = ()
    for place, entry in enumerate(found.entries):
        runs = list(found.curves[entry.arm].values())
        columns = list(zip(*(run.values for run in runs), strict=False))
        epochs, scale = runs[0].epochs[: len(columns)], found.twin.scale
        low, mean, high = ([scale * of(column) for column in columns] for of in (min, fmean, max))
        axes.fill_between(epochs, low, high, color=f"C{place}", alpha=0.2, lw=0)
        axes.plot(epochs, mean, color=f"C{place}", label=entry.name, lw=1.8)
    band = "; band: all seeds" if any(len(found.curves[entry.arm]) > 1 for entry in found.entries) else ""
    for name, value in found.twin.others.items():
        axes.axhline(value, color="black", ls="--", lw=1, label=name)
    plain_axes(axes, "epoch", f"{found.twin.label}, %{band}", whole=True)
    if len(epochs) < 10:
        axes.set_xticks(epochs)  # where anything was measured
    axes.legend(frameon=False)


def _draw_scores(found: Found, axes: Axes) -> None:
    entries, right = list(reversed(found.entries)), axes.get_yaxis_transform()
    pooled = found.noise
    for place, entry in enumerate(entries):
        score = interval(list(found.last(entry.arm).values()), pooled)
        reach = 0.0 if math.isnan(score.low) else score.high - score.mean
        axes.errorbar(score.mean, place, xerr=reach, fmt="o", color="C0", capsize=3)
        if entry.paper is not None:
            axes.text(1.01, place, f"paper {entry.paper:.1f}", transform=right, va="center", fontsize=9)
    axes.set_yticks(range(len(entries)), [entry.name for entry in entries])
    axes.set_ylim(-0.6, len(entries) - 0.4)
    noise = "interval by one noise for all" if pooled else "interval"
    axes.set_xlabel(f"{found.twin.label} here, %, with {LEVEL:.0%} {noise}")
    axes.grid(axis="x", alpha=0.3)


def main(arguments: list[str] | None = None) -> None:
    """The page and its pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    given = parser.parse_args(arguments)
    if not given.results.is_dir():
        parser.error(f"--results {given.results} is no folder")
    try:
        print(_publish(given.results, given.docs))
    except UserError as error:
        parser.error(str(error))


def _publish(results: Path, docs: Path) -> Path:
    """Write pictures and page; returns the page's path. UserError for rows that cannot be shown."""
    every = [find(twin, results) for twin in read_twins()]
    parts = {found.twin.name: section(found) for found in every}
    parts["pam"] += "\n" + "\n".join(figure1_right.section(results))
    for found in every:
        if found.drawn:
            publish(docs / "pictures" / f"twin_{found.twin.name}.png", picture(found))
    if rows := figure1_right.read_static(results / figure1_right.STATIC):
        publish(docs / "pictures/twin_figure1_right.png", figure1_right.picture(rows))
    page = "\n".join([INTRODUCTION, *parts.values()])
    write_output(docs / "results.md", (page.rstrip() + "\n").encode())
    return docs / "results.md"


if __name__ == "__main__":
    main()
