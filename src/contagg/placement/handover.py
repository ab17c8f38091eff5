"""What a placement hands over: a table of what was closed and why, a recipe, a picture, and the saving measured."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from contagg.benchmark.bench import csv_of, describe
from contagg.benchmark.cost import Work, interleaved, multiply_adds, parameter_count, peak_bytes
from contagg.benchmark.variants import DTYPES
from contagg.device import choose_device
from contagg.figures import save_figure
from contagg.files import write_output
from contagg.output import table
from contagg.placement.config import Budget, without_placement
from contagg.placement.picture import gates_figure, rises_figure
from contagg.placement.places import Place, affinity_option
from contagg.placement.price import Prices, at_size, shown
from contagg.tasks import task_named
from contagg.training.run_folder import RunFolder

ROUNDS = 15
"""Of measuring what was saved."""


@dataclass(frozen=True, kw_only=True)
class Reason:
    """One place, and why it was closed or left open.

    Attributes:
        cost: What it adds where it is open, in `unit`.
        score: Of being open: the gate's chance, or the rise of the loss where it is closed.
        evidence: Standard errors by which the score speaks for it.
    """

    place: str
    word: str
    open: bool
    becomes: str
    cost: float
    unit: str
    score: float
    evidence: float


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a placement found.

    Attributes:
        chosen: Numbers of the places that stay open.
        scores, evidence: A number a place; see `Reason`.
        history: See `Placement`; empty where nothing was learnt.
    """

    places: Sequence[Place]
    prices: Prices
    budget: Budget
    chosen: tuple[int, ...]
    scores: Sequence[float]
    evidence: Sequence[float]
    history: Sequence[Sequence[float]] = ()

    @property
    def limit(self) -> float:
        """The budget in the prices' unit."""
        return self.prices.closed + self.prices.room(self.budget)

    def reasons(self) -> list[Reason]:
        """The table, a row a place."""
        return [
            Reason(
                place=place.label,
                word=place.word,
                open=number in self.chosen,
                becomes=place.word if number in self.chosen else place.static_word,
                cost=self.prices.added[number],
                unit=self.prices.unit,
                score=self.scores[number],
                evidence=self.evidence[number],
            )
            for number, place in enumerate(self.places)
        ]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A network on one image of a size: medians, and quartiles of the time; None where it could not be measured."""

    network: str
    height: int
    width: int
    parameters: int
    multiply_adds: int
    ms: float | None
    ms_low: float | None
    ms_high: float | None
    peak_megabytes: float | None


def hand_over(
    finding: Finding,
    folder: RunFolder,
    recipe: Any,
    opened: nn.Module,
    placed: nn.Module,
    size: tuple[int, int],
    weights: Path,
) -> None:
    """Write and print all that was found; what is measured comes last, as a large image may be too much for a machine.

    Args:
        opened, placed: The network with all open, and without what was closed.
        size: Of the run's images; costs are measured at this size and at that of the prices.
        weights: The file of the chosen network.
    """
    affinity = affinity_option(opened, finding.places, finding.chosen)
    device = choose_device("cpu" if recipe.run.accelerator == "cpu" else "auto")
    networks = {"all open": opened, "placed": placed}
    channels = getattr(recipe.model, "channels", 3)
    content = {
        "budget": finding.budget,
        "prices": finding.prices,
        "chosen": [finding.places[number].label for number in finding.chosen],
        "affinity": affinity,
        "costs": [],
        "about": describe(device) | {"precision": recipe.run.precision},
    }
    write_output(folder.folder / "placed.yaml", _recipe_text(recipe, folder, affinity).encode())
    write_output(folder.folder / "placement.csv", csv_of(finding.reasons()))
    picture = gates_figure(finding) if finding.history else rises_figure(finding)
    save_figure(picture, folder.figures / "placement.png")
    print(f"\n{_table(finding)}\n", flush=True)
    for pixels in dict.fromkeys([size, finding.prices.size]):
        write_output(folder.folder / "placement.json", json.dumps(content, indent=2, default=asdict).encode())
        content["costs"] += measured(networks, pixels, channels, recipe.run.precision, device)
    write_output(folder.folder / "placement.json", json.dumps(content, indent=2, default=asdict).encode())
    print(f"{_saving(finding, content['costs'])}\n\n{_next(folder, recipe, affinity, weights)}", flush=True)


def _recipe_text(recipe: Any, folder: RunFolder, affinity: Any) -> str:
    again = without_placement(recipe, affinity=affinity)
    again["run"]["folder"] = f"{recipe.run.folder}/again"
    head = "# What contagg place chose, to be trained from the start.\n#\n# Command   contagg fit -c"
    return f"{head} {folder.folder}/placed.yaml\n{yaml.safe_dump(again, sort_keys=False)}"


def measured(
    networks: dict[str, nn.Module], size: tuple[int, int], channels: int, precision: str, device: torch.device
) -> list[Cost]:
    """What networks cost for one image of a size, measured in turns where there is memory for it."""
    ready = {name: at_size(network, size).to(device, DTYPES[precision]) for name, network in networks.items()}
    try:
        image = torch.randn(1, channels, *size).to(device, DTYPES[precision])
        works = {name: _answer(network, image) for name, network in ready.items()}
        times = interleaved(works, ROUNDS, device)
        peaks = {name: peak_bytes(work, device) / 1e6 for name, work in works.items()}
    except RuntimeError as error:  # memory ran out
        print(f"warning: not measured at {size[0]} x {size[1]} pixels: {' '.join(str(error).split())}", flush=True)
        times, peaks = {}, {}
    found = []
    for name, network in ready.items():
        spread = times.get(name)
        ms = (None,) * 3 if spread is None else (1000 * spread.median, 1000 * spread.low, 1000 * spread.high)
        found.append(
            Cost(
                network=name,
                height=size[0],
                width=size[1],
                parameters=parameter_count(network),
                multiply_adds=multiply_adds(network.float(), size, channels),
                ms=ms[0],
                ms_low=ms[1],
                ms_high=ms[2],
                peak_megabytes=peaks.get(name),
            )
        )
    return found


def _answer(network: nn.Module, image: torch.Tensor) -> Work:
    def run() -> object:
        with torch.no_grad():
            return network(image)

    return run


def _table(finding: Finding) -> str:
    """Each place, and why it is open or closed."""
    prices, learnt = finding.prices, bool(finding.history)
    score = "chance" if learnt else "rise"
    lines = [["block", "word", "is", "costs", score, "evidence"]]
    dear = {finding.places[number].label for number in prices.too_dear(finding.budget)}
    for one in finding.reasons():
        evidence = "-" if isnan(one.evidence) else f"{one.evidence:.2g}"
        cost, is_open = shown(one.cost, prices.unit), "open" if one.open else "closed"
        is_open += ", does not fit" * (one.place in dear)
        lines.append([one.place, one.word, is_open, cost, f"{one.score:.3g}", evidence])
    words = "to be open, as its gate learnt it" if learnt else "of the loss where this one is closed, measured last"
    told = "opening it lowered the loss" if learnt else "that rise is above 0"
    return f"{table(lines, left=3)}\n{score}: {words}; evidence: by how many standard errors {told}"


def _saving(finding: Finding, costs: Sequence[Cost]) -> str:
    """What was measured, and how near the sum of the prices comes to it."""
    prices = finding.prices
    lines = [["network", "pixels", "parameters", "multiply-adds", "ms", "peak MB"]]
    for one in costs:
        peak = "-" if one.peak_megabytes is None else f"{one.peak_megabytes:.1f}"
        size = f"{one.height} x {one.width}"
        lines.append([one.network, size, f"{one.parameters:,}", f"{one.multiply_adds:,}", _quartiles(one), peak])
    predicted, budget = prices.cost(finding.chosen), shown(finding.limit, prices.unit)
    found = next(cost for cost in costs if cost.network == "placed" and (cost.height, cost.width) == prices.size)
    actual, how = (found.ms, "measured") if prices.unit == "ms" else (found.multiply_adds, "counted")
    end = "not measured" if actual is None else f"{how} {shown(actual, prices.unit)} ({actual / predicted - 1:+.1%})"
    size = f"{prices.size[0]} x {prices.size[1]}"
    said = f"at {size} pixels: budget {budget}, predicted {shown(predicted, prices.unit)}, {end}"
    return f"{table(lines, left=2)}\n\n{said}"


def _quartiles(cost: Cost) -> str:
    if cost.ms is None:
        return "-"
    ms, low, high = (f"{one:,.{3 if cost.ms < 1 else 1}f}" for one in (cost.ms, cost.ms_low, cost.ms_high))
    return f"{ms} ({low} to {high})"


def _next(folder: RunFolder, recipe: Any, affinity: Any, weights: Path) -> str:
    name = getattr(recipe.model, "name", None) or recipe.model.backbone
    part = "network " if hasattr(recipe.model, "name") else "backbone"
    given = {**recipe.model.options, "affinity": affinity}
    options = ", ".join(f"{option}={value!r}" for option, value in given.items())
    last = f"\n               contagg validate {weights}" if "validate" in task_named(recipe.task).commands else ""
    again, on = folder.folder / "placed.yaml", folder.folder / "on"
    return f"""{part}       contagg.create({name!r}, {options})
weights        {weights}
table          {folder.folder / "placement.csv"}, and all numbers in {folder.folder / "placement.json"}
picture        {folder.figures / "placement.png"}
recipe         {again}

next           contagg fit -c {again}     # the same network from the start
               contagg fit -c {again} --model.init_weights {weights} --run.folder {on}     # trained on{last}"""
