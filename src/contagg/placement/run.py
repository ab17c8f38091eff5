"""The run that learns a placement: any task's job with gates in it, and what it hands over in the end."""

import copy
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from contagg.arguments import load
from contagg.checkpoints.locate import find_weights
from contagg.device import choose_device
from contagg.errors import UserError
from contagg.files import write_output
from contagg.placement.config import Budget
from contagg.placement.handover import Finding, hand_over
from contagg.placement.leaving import SharedPlaces
from contagg.placement.places import Place, find_places
from contagg.placement.price import Prices, price, shown
from contagg.placement.search import Account, Placement
from contagg.tasks import task_named
from contagg.training.checkpoint import checkpoints
from contagg.training.config import RunConfig
from contagg.training.engine import Job, check_machine, claim_folder, train
from contagg.training.run_folder import RunFolder, is_first_process


def run(recipe: Any) -> None:
    """Learn a placement, train on with it, and say what was found."""
    check_machine(recipe.run)
    torch.manual_seed(recipe.run.seed)
    task = task_named(recipe.task)
    data = load(task.open)(recipe)
    job: Job = load(task.job)(recipe, data)
    network = job.networks[0]
    places, size = find_places(network), costed_size(job, recipe)
    folder, prices = begun(network, places, size, recipe)
    opened = copy.deepcopy(network)
    shared = SharedPlaces(job.task, job.networks, places)
    placement = Placement(shared, recipe.placement, recipe.run.seed, prices)
    account = Account(placement)
    train(replace(job, callbacks=(placement, account)), _able_to_close(recipe.run), folder)
    if is_first_process():
        assert placement.prices is not None and placement.chosen is not None
        finding = Finding(
            places=places,
            prices=placement.prices,
            budget=Budget.read(recipe.placement.budget),
            chosen=placement.chosen,
            scores=placement.gates.probabilities.tolist(),
            evidence=placement.gates.evidence.tolist(),
            history=account.history,
        )
        if task.report:
            load(task.report)(folder, recipe, data)
        hand_over(finding, folder, recipe, opened, network, image_size(job), find_weights(folder.folder))


def begun(
    network: nn.Module, places: list[Place], size: tuple[int, int], recipe: Any
) -> tuple[RunFolder, Prices | None]:
    """The claimed run folder and, in the first process, the prices: those that the run began with where it goes on.

    ms measured anew would be others, and might leave the budget out of their range.
    """
    run = Path(recipe.run.folder)
    path = run / "prices.json"
    if not is_first_process():
        return claim_folder(recipe.run, recipe), None
    if checkpoints(run / "checkpoints"):
        folder = claim_folder(recipe.run, recipe)  # refuses another recipe's
        if (before := _read(path)) is not None:
            return folder, before
    elif any((run / "checkpoints").glob("*.safetensors")):
        raise UserError(f"{run} holds what contagg place --from found: give --run.folder another folder")
    prices = priced(network, places, size, recipe)
    folder = claim_folder(recipe.run, recipe)
    write_output(path, json.dumps(asdict(prices)).encode())
    return folder, prices


def priced(network: nn.Module, places: list[Place], size: tuple[int, int], recipe: Any) -> Prices:
    """The prices at a size, in the budget's unit. UserError for a budget out of their range."""
    budget = Budget.read(recipe.placement.budget)
    device = choose_device("cpu" if recipe.run.accelerator == "cpu" else "auto")
    channels = getattr(recipe.model, "channels", 3)
    prices = price(network, places, size, channels, budget.unit, recipe.run.precision, device)
    if dear := [places[number].label for number in prices.too_dear(budget)]:
        room = shown(prices.room(budget), prices.unit)
        print(
            f"placement: {', '.join(dear)} will be closed: each alone costs more than the {room} to share", flush=True
        )
    return prices


def _read(path: Path) -> Prices | None:
    """None where the file holds none."""
    try:
        return Prices.of(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def costed_size(job: Job, recipe: Any) -> tuple[int, int]:
    """Height and width of what a job's networks see of an image of the size that costs are of."""
    size = recipe.placement.size or _largest(job)
    seen = _padded(size, job)
    if seen != size and is_first_process():
        print(
            f"placement: images are padded to multiples of {job.divisor} pixels: one of {size[0]} x {size[1]} costs "
            f"what one of {seen[0]} x {seen[1]} does",
            flush=True,
        )
    return seen


def image_size(job: Job) -> tuple[int, int]:
    """Height and width of what a job's networks see as it trains; of those that vary in size the largest."""
    return _padded(_largest(job), job)


def _padded(size: tuple[int, int], job: Job) -> tuple[int, int]:
    height, width = (-(-length // job.divisor) * job.divisor for length in size)
    return height, width


def _largest(job: Job) -> tuple[int, int]:
    if "preprocessing" in job.metadata:
        height, width = job.metadata["preprocessing"]["input_size"][1:]
    else:
        height, width = job.metadata["resizing"]["short_sides"][-1], job.metadata["resizing"]["long_side"]
    return height, width


def _able_to_close(run: RunConfig) -> RunConfig:
    """Several processes must not wait for the gradients of what is closed."""
    return replace(run, strategy="ddp_find_unused_parameters_true") if run.world_size > 1 else run
