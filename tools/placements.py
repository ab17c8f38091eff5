"""`python -m tools.placements`: all placements of attention compared, and which rule finds the good ones.

Reads, under results/placement, truth/runs.json (`contagg compare` over all choices of stages), learnt.json (runs of
`contagg place`, added by `--add RUN...`), rivals.json (tools/rivals), price.json (tools/search_price) and
nuclei/runs.json (`contagg compare` of none and all in a detector), and writes docs/placement-results.md with its
picture. What is missing is said to be.
"""

import argparse
import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from matplotlib.figure import Figure

from contagg.errors import UserError
from contagg.figures import new_figure
from contagg.files import write_output
from contagg.lab.intervals import Pooled, interval, paired
from contagg.yaml_file import read_yaml
from tools.comparisons import rows_of
from tools.json_rows import put_row, read_rows
from tools.pictures import publish
from tools.placement_truth import LIGHT, ROOT, Stages, Truth, by_stage, in_points, jaccard, last, shown, stages_of

LEARNT, GREEDY = "learnt", "greedy"
"""A run that trains with gates; one that closes blocks of a trained network, `contagg place --from`."""


def learnt_row(run: Path) -> dict[str, Any]:
    """What a finished run of `contagg place` found."""
    try:
        found, recipe = json.loads((run / "placement.json").read_text()), read_yaml(run / "recipe.yaml")
        with (run / "placement.csv").open() as file:
            reasons = list(csv.DictReader(file))
    except (OSError, KeyError, IndexError) as error:
        raise UserError(f"{run} is no finished run of contagg place: {error}") from error
    if recipe["task"] == "classification" and found["budget"]["unit"] != "share":
        raise UserError(
            f"{run} has a budget in {found['budget']['unit']}: give runs of a share of all open, such as 0.9"
        )
    return {
        "task": recipe["task"],
        "rule": LEARNT if (run / "metrics.csv").is_file() else GREEDY,
        "seed": recipe["run"]["seed"],
        "budget": found["budget"]["value"],
        "scores": {reason["place"]: float(reason["score"]) for reason in reasons},
        "chosen": found["chosen"],
    }


def truth_section(truth: Truth) -> list[str]:
    """The table of all choices, what each stage is worth, and how much of the spread is noise."""
    if not truth.accuracies or len(truth.seeds) < 2:
        return ["## All placements", "", "Not run yet, or with one seed only.", ""]
    none, seeds = (False,) * 4, truth.seeds
    lines = [
        f"## All {len(truth.accuracies)} placements, {len(seeds)} seeds",
        "",
        "| stages with attention | million multiply-adds | ms a batch, inference and training step | accuracy, % "
        "| from none, points |",
        "|---|---|---|---|---|",
    ]
    for stages in sorted(truth.accuracies, key=lambda each: truth.costs[each]):
        values = {seed: truth.accuracies[stages][seed] for seed in seeds}
        reference = truth.accuracies[none]
        difference = "" if stages == none else in_points(paired(values, reference).interval, "+")
        accuracy = in_points(interval(list(values.values())))
        times = ", ".join(f"{each:.1f}" for each in truth.milliseconds.get(stages, ()))
        lines.append(f"| {shown(stages)} | {truth.costs[stages] / 1e6:.2f} | {times} | {accuracy} | {difference} |")
    pooled = Pooled.of(list(truth.accuracies.values()))
    wavers = pooled.deviation if pooled else 0.0
    spread = stdev(truth.mean(stages) for stages in truth.accuracies)
    lines += [
        "",
        f"The choices' means spread by {spread:.2f} points (standard deviation); one run wavers by "
        f"{wavers:.2f}, so that noise alone would spread the means by "
        f"{wavers / len(seeds) ** 0.5:.2f}.",
        "",
        "| opening stage | is worth, points, whatever else is open |",
        "|---|---|",
        *(f"| {stage + 1} | {in_points(truth.effect(stage), '+')} |" for stage in range(4)),
        "",
        "![Accuracy of all placements against their cost](pictures/placement_truth.png)",
        "",
    ]
    return lines


def rules_section(truth: Truth, learnt: Sequence[Mapping[str, Any]], rivals: Sequence[Mapping[str, Any]]) -> list[str]:
    """How well each rule orders the choices."""
    named: dict[str, list[float]] = {}
    for row in (each for each in learnt if each["rule"] == LEARNT):
        named.setdefault("learnt gates", []).append(truth.agreement(by_stage(row["scores"])))
    for row in rivals:
        for rule, scores in row["scores"].items():
            named.setdefault(rule, []).append(truth.agreement(by_stage(scores)))
    if not named:
        return []
    lines = ["## Which rule orders them", "", "| rule | Kendall's tau | runs |", "|---|---|---|"]
    lines += [f"| {rule} | {in_points(interval(taus), '+')} | {len(taus)} |" for rule, taus in named.items()]
    return [*lines, ""]


def learnt_section(truth: Truth, learnt: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was chosen under each budget, against all others of no more cost."""
    if not learnt:
        return ["## What is learnt", "", "Not run yet.", ""]
    lines = [
        "## What is learnt",
        "",
        "Accuracies are of the placements trained from the start, as above, the mean over what each seed chose. Greedy "
        "closes stages of a trained network, after the fact.",
        "",
        "| budget | rule | chosen, by seed | alike (Jaccard) | accuracy | better than | from LIGHT's |",
        "|---|---|---|---|---|---|---|",
    ]
    total = max(truth.costs.values())
    for budget in sorted({row["budget"] for row in learnt}, reverse=True):
        within = truth.within(budget * total)
        chosen = {rule: [stages_of(row["chosen"]) for row in learnt if (row["budget"], row["rule"]) == (budget, rule)]
                  for rule in (LEARNT, GREEDY)}  # fmt: skip
        chosen |= {"by hand": [LIGHT], "the last two": [(False, False, True, True)]}
        chosen |= {"the best": [max(within, key=truth.mean)]}
        for rule, choices in chosen.items():
            if choices and all(stages in within for stages in choices):
                lines.append(f"| {budget:g} | {rule} | {_chosen(truth, choices, within)} |")
    return [*lines, "", nested(learnt), ""]


def _chosen(truth: Truth, choices: Sequence[Stages], within: Sequence[Stages]) -> str:
    """Cells of the table: what was chosen, how alike, and how good it is among those of no more cost."""
    means = [truth.mean(stages) for stages in choices]
    below = [fmean(truth.mean(other) < mean for other in within if other != stages) if len(within) > 1 else 1.0
             for stages, mean in zip(choices, means, strict=True)]  # fmt: skip
    values = {seed: fmean(truth.accuracies[stages][seed] for stages in choices) for seed in truth.seeds}
    same = all(stages == LIGHT for stages in choices)
    light = "" if same else in_points(paired(values, truth.accuracies[LIGHT]).interval, "+")
    share = f"{fmean(below):.0%} of the {len(within) - 1} others of no more cost"
    alike = f"{jaccard(choices):.2f}" if len(choices) > 1 else ""
    return f"{'; '.join(map(shown, choices))} | {alike} | {fmean(means):.2f} | {share} | {light}"


def nested(learnt: Sequence[Mapping[str, Any]]) -> str:
    """In how many pairs of budgets of one seed what the smaller one opens is open under the larger one too."""
    rows = sorted((row for row in learnt if row["rule"] == LEARNT), key=lambda row: row["budget"])
    pairs = [(small, large) for small, large in combinations(rows, 2) if small["seed"] == large["seed"]]
    kept = sum(set(small["chosen"]) <= set(large["chosen"]) for small, large in pairs)
    return f"What is learnt to be open under a budget is so under a larger one in {kept} of {len(pairs)} pairs of runs."


def price_section(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """CPU seconds of a run that learns its placement, against runs that do not."""
    if len(rows) < 2:
        return []
    lines = ["## What the search costs", "", "| CPU seconds of `contagg place`, over those of | ratio | runs |"]
    lines += ["|---|---|---|"]
    of = {"fit": "`contagg fit` with all open", "chosen": "`contagg fit` of the chosen network, from the start"}
    for part, name in of.items():
        ratios = [row["place"] / row[part] for row in rows if part in row]
        if len(ratios) > 1:
            lines.append(f"| {name} | {in_points(interval(ratios))} | {len(ratios)} |")
    return [*lines, ""]


def detection_section(found: Mapping[Stages, Mapping[int, float]], learnt: Sequence[Mapping[str, Any]]) -> list[str]:
    """Whether a detector has something to place, and where it puts it."""
    none, every = found.get((False,) * 4, {}), found.get((True,) * 4, {})
    if min(len(none), len(every)) < 2:
        return []
    scores = (in_points(interval(list(each.values()))) for each in (none, every))
    lines = [
        "## In a detector",
        "",
        "RetinaNet on the same network, on nuclei (`recipes/placement/nuclei.yaml`), box AP.",
        "",
        "| none open | all open | all, from none | seeds |",
        "|---|---|---|---|",
        f"| {' | '.join(scores)} | {in_points(paired(every, none).interval, '+')} | {len(every)} |",
        "",
    ]
    if not learnt:
        return lines
    choices = [stages_of(row["chosen"]) for row in learnt]
    lines += [
        f"Chosen within {learnt[0]['budget'] / 1e6:g}M multiply-adds at 64 pixels, by seed: "
        f"{'; '.join(map(shown, choices))} (Jaccard {jaccard(choices):.2f}).",
        "",
        "| stage | chance to be open, as learnt |",
        "|---|---|",
    ]
    chances = [by_stage(row["scores"]) for row in learnt]
    lines += [f"| {stage + 1} | {in_points(interval([each[stage] for each in chances]))} |" for stage in range(4)]
    return [*lines, ""]


def picture(truth: Truth, learnt: Sequence[Mapping[str, Any]]) -> Figure:
    """Accuracy with intervals against cost; how many runs learnt each choice, and the budgets that they were given."""
    figure = new_figure(7.6, 4.6)
    axes = figure.subplots()
    runs = [row for row in learnt if row["rule"] == LEARNT]
    chosen = Counter(stages_of(row["chosen"]) for row in runs)
    pooled = Pooled.of(list(truth.accuracies.values()))
    for stages in truth.accuracies:
        score = interval([truth.accuracies[stages][seed] for seed in truth.seeds], pooled)
        colour = "C1" if stages == LIGHT else "C3" if stages in chosen else "C0"
        cost = truth.costs[stages] / 1e6
        axes.errorbar(cost, score.mean, yerr=score.high - score.mean, fmt="o", color=colour, capsize=3, lw=1)
        name = shown(stages) + f"\n×{chosen[stages]}" * (stages in chosen)
        axes.annotate(
            name, (cost, score.high), (0, 4), textcoords="offset points", fontsize=8, color=colour, ha="center"
        )
    for budget in sorted({row["budget"] for row in runs}):
        cost = budget * max(truth.costs.values()) / 1e6
        axes.axvline(cost, color="0.6", ls=":", lw=1)
        axes.annotate(f"{budget:g}", (cost, 0.02), (3, 0), xycoords=("data", "axes fraction"),
                      textcoords="offset points", fontsize=8, color="0.4")  # fmt: skip
    axes.set(xlabel="million multiply-adds of an image", ylabel="accuracy, %, with 95 % interval by one noise for all")
    axes.set_title("Stages with attention; ×n: learnt by n runs; orange: LIGHT's; dotted: budgets", fontsize=9)
    axes.grid(alpha=0.3)
    axes.margins(0.08)
    return figure


INTRODUCTION = """# Where attention is needed, measured

The network of `recipes/placement/imagenette.yaml`: four stages of one block each, on Imagenette's photographs at 64
pixels, in which nothing mixes tokens but gated attention, where it is open. How this is made is in
[Where attention is needed](placement.md); `python -m tools.placements` writes this page from the rows under
`results/placement`. Intervals are of 95 % over seeds.
"""


def _of(row: Mapping[str, Any]) -> tuple[str, str, float, int]:
    return row["task"], row["rule"], row["budget"], row["seed"]


def main(arguments: list[str] | None = None) -> None:
    """The page and its picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--add", type=Path, nargs="+", default=[], metavar="RUN", help="finished runs of contagg place")
    parser.add_argument("--results", type=Path, default=ROOT / "results/placement")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    given = parser.parse_args(arguments)
    for row in map(learnt_row, given.add):
        put_row(given.results / "learnt.json", row, _of)
    learnt = read_rows(given.results / "learnt.json")
    here, detection = ([row for row in learnt if row["task"] == task] for task in ("classification", "detection"))
    truth, lines = Truth.read(given.results / "truth/runs.json"), [INTRODUCTION]
    lines += truth_section(truth)
    if truth.accuracies and len(truth.seeds) > 1:
        publish(given.docs / "pictures/placement_truth.png", picture(truth, here))
        lines += rules_section(truth, here, read_rows(given.results / "rivals.json")) + learnt_section(truth, here)
        lines += price_section(read_rows(given.results / "price.json"))
    lines += detection_section(last(rows_of(given.results / "nuclei/runs.json"), "box_ap"), detection)
    write_output(given.docs / "placement-results.md", ("\n".join(lines).rstrip() + "\n").encode())
    print(given.docs / "placement-results.md")


if __name__ == "__main__":
    main()
