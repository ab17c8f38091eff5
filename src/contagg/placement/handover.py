"""What a placement hands over: a table of what was closed and why, a recipe, a picture, and the saving measured."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
from contagg.placement.config import Budget, without_placement
from contagg.placement.picture import gates_figure, rises_figure
from contagg.placement.places import Place, affinity_option
from contagg.placement.price import Prices, at_size, shown
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
    """A network on one image of a size, measured: medians, and quartiles of the time."""

    network: str
    height: int
    width: int
    parameters: int
    multiply_adds: int
    ms: float
    ms_low: float
    ms_high: float
    peak_megabytes: float


def hand_over(
    finding: Finding,
    folder: RunFolder,
    recipe: Any,
    opened: nn.Module,
    placed: nn.Module,
    size: tuple[int, int],
    weights: Path,
) -> None:
    """Write and print all that was found.

    Args:
        opened, placed: The network with all open, and without what was closed.
        size: Of the run's images; costs are measured at this size and at that of the prices.
        weights: The file of the chosen network.
    """
    affinity = affinity_option(opened, finding.places, finding.chosen)
    device = choose_device("cpu" if recipe.run.accelerator == "cpu" else "auto")
    networks = {"all open": opened, "placed": placed}
    sizes = list(dict.fromkeys([size, finding.prices.size]))
    channels = getattr(recipe.model, "channels", 3)
    costs = [cost for s in sizes for cost in measured(networks, s, channels, recipe.run.precision, device)]
    content = {
        "budget": finding.budget,
        "prices": finding.prices,
        "chosen": [finding.places[number].label for number in finding.chosen],
        "affinity": affinity,
        "costs": costs,
        "about": describe(device) | {"precision": recipe.run.precision},
    }
    write_output(folder.folder / "placed.yaml", _recipe_text(recipe, folder, affinity).encode())
    write_output(folder.folder / "placement.csv", csv_of(finding.reasons()))
    write_output(folder.folder / "placement.json", json.dumps(content, indent=2, default=asdict).encode())
    picture = gates_figure(finding) if finding.history else rises_figure(finding)
    save_figure(picture, folder.figures / "placement.png")
    print(f"\n{in_words(finding, costs)}\n\n{_next(folder, recipe, affinity, weights)}", flush=True)


def _recipe_text(recipe: Any, folder: RunFolder, affinity: Any) -> str:
    again = without_placement(recipe, affinity=affinity)
    again["run"]["folder"] = f"{recipe.run.folder}/again"
    head = "# What contagg place chose, to be trained from the start.\n#\n# Command   contagg fit -c"
    return f"{head} {folder.folder}/placed.yaml\n{yaml.safe_dump(again, sort_keys=False)}"


def measured(
    networks: dict[str, nn.Module], size: tuple[int, int], channels: int, precision: str, device: torch.device
) -> list[Cost]:
    """What networks cost for one image of a size, measured in turns."""
    image = torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(0)).to(device, DTYPES[precision])
    ready = {name: at_size(network, size).to(device, DTYPES[precision]) for name, network in networks.items()}
    works = {name: _answer(network, image) for name, network in ready.items()}
    times = interleaved(works, ROUNDS, device)
    return [
        Cost(
            network=name,
            height=size[0],
            width=size[1],
            parameters=parameter_count(network),
            multiply_adds=multiply_adds(network.float(), size, channels),
            ms=1000 * times[name].median,
            ms_low=1000 * times[name].low,
            ms_high=1000 * times[name].high,
            peak_megabytes=peak / 1e6,
        )
        for name, network, peak in [(name, ready[name], peak_bytes(works[name], device)) for name in ready]
    ]


def _answer(network: nn.Module, image: torch.Tensor) -> Work:
    def run() -> object:
        with torch.no_grad():
            return network(image)

    return run


def in_words(finding: Finding, costs: Sequence[Cost]) -> str:
    """The tables for a terminal, and how near the sum of the prices comes to the measured cost."""
    prices = finding.prices
    lines = [f"{'block':<7}{'word':<28}{'stays':<8}{'adds':>24}{'score':>10}{'evidence':>10}"]
    lines += [
        f"{reason.place:<7}{reason.word:<28}{'open' if reason.open else 'closed':<8}"
        f"{shown(reason.cost, prices.unit):>24}"
        f"{reason.score:>10.3g}{reason.evidence:>10.2g}"
        for reason in finding.reasons()
    ]
    lines += ["", f"{'network':<12}{'pixels':<12}{'parameters':>12}{'multiply-adds':>16}{'ms':>22}{'peak MB':>10}"]
    lines += [
        f"{cost.network:<12}{f'{cost.height} x {cost.width}':<12}{cost.parameters:>12,}{cost.multiply_adds:>16,}"
        f"{f'{cost.ms:.3g} ({cost.ms_low:.3g} to {cost.ms_high:.3g})':>22}{cost.peak_megabytes:>10.1f}"
        for cost in costs
    ]
    predicted, budget = prices.cost(finding.chosen), shown(finding.limit, prices.unit)
    found = next(cost for cost in costs if cost.network == "placed" and (cost.height, cost.width) == prices.size)
    actual = found.ms if prices.unit == "ms" else found.multiply_adds
    return "\n".join([
        *lines,
        "",
        f"at {prices.size[0]} x {prices.size[1]} pixels: budget {budget}, predicted {shown(predicted, prices.unit)}, "
        f"measured {shown(actual, prices.unit)} ({actual / predicted - 1:+.1%})",
    ])  # fmt: skip


def _next(folder: RunFolder, recipe: Any, affinity: Any, weights: Path) -> str:
    name = getattr(recipe.model, "name", None) or recipe.model.backbone
    given = {**recipe.model.options, "affinity": affinity}
    options = ", ".join(f"{option}={value!r}" for option, value in given.items())
    again = folder.folder / "placed.yaml"
    return f"""network        contagg.create({name!r}, {options})
weights        {weights}
table          {folder.folder / "placement.csv"}, and all numbers in {folder.folder / "placement.json"}
picture        {folder.figures / "placement.png"}
recipe         {again}

next           contagg fit -c {again}     # the same network from the start
               contagg fit -c {again} --model.init_weights {weights}     # trained on
               contagg validate {weights}"""
