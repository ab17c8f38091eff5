"""What an arm costs: milliseconds and bytes of inference and of a training step, and how long a run of it takes."""

import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from lightning_fabric.utilities import move_data_to_device

from contagg.benchmark.bench import describe
from contagg.benchmark.cost import Work, interleaved, peak_bytes
from contagg.benchmark.variants import DTYPES
from contagg.device import choose_device
from contagg.lab.arms import Arm, Arms
from contagg.lab.making import Opener
from contagg.lab.rows import digest
from contagg.lab.sizes import each_loader, network, validation_images
from contagg.training.engine import Job


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Of a batch of the recipe, on one device: medians of rounds in which all arms took turns, and the most memory."""

    inference_ms: float
    train_ms: float
    inference_mb: float
    train_mb: float


def measure(arms: Arms, opener: Opener, rounds: int) -> dict[str, Any]:
    """Time and memory of all arms, on the recipe's device and with one thread, as `runs.json` keeps them."""
    recipe = arms.recipe
    device = choose_device("cpu" if recipe.run.accelerator == "cpu" else "auto")
    works: dict[str, Work] = {}
    for arm in arms.arms:
        inference, step = _works(opener.job(arm.recipe), arm.recipe, device)
        works[f"inference {arm.name}"], works[f"train {arm.name}"] = inference, step
    seconds = interleaved(works, rounds, device)
    found = {
        arm.name: Measured(
            inference_ms=1000 * seconds[f"inference {arm.name}"].median,
            train_ms=1000 * seconds[f"train {arm.name}"].median,
            inference_mb=peak_bytes(works[f"inference {arm.name}"], device) / 1e6,
            train_mb=peak_bytes(works[f"train {arm.name}"], device) / 1e6,
        )
        for arm in arms.arms
    }
    about = {key: value for key, value in describe(device).items() if key != "command"}
    return {
        "about": about | {"batch": recipe.optimization.batch_size, "precision": recipe.run.precision, "rounds": rounds},
        "arms": {arm.name: {"changes": digest(dict(arm.changes))} | asdict(found[arm.name]) for arm in arms.arms},
    }


def measured(costs: Mapping[str, Any], arms: Arms) -> dict[str, Measured] | None:
    """What `measure` found, where it was of all these arms; None otherwise."""
    known = costs.get("arms", {})
    for arm in arms.arms:
        if known.get(arm.name, {}).get("changes") != digest(dict(arm.changes)):
            return None
    names = Measured.__dataclass_fields__
    return {arm.name: Measured(**{name: known[arm.name][name] for name in names}) for arm in arms.arms}


def _works(job: Job, recipe: Any, device: torch.device) -> tuple[Work, Work]:
    """Inference of a validation batch, and a training step of a training batch: forward, backward, AdamW's step."""
    task = job.task.to(device)
    images = move_data_to_device(validation_images(job), device)
    batch = move_data_to_device(next(iter(job.train_batches(0, 1))), device)
    dtype = DTYPES[recipe.run.precision]
    optimizer: Any = task.configure_optimizers()

    def precision() -> Any:
        return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)

    def inference() -> object:
        model = network(job).eval()
        with torch.no_grad(), precision():
            return model(images)

    def step() -> object:
        task.train()
        with precision():
            found: Any = task.training_step(batch, 0)
        loss = found["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return inference, step


def estimate(arm: Arm, opener: Opener) -> float:
    """Seconds that a run of an arm will take, from two batches of training and of validation."""
    job = opener.job(arm.recipe)
    device = choose_device("cpu" if arm.recipe.run.accelerator == "cpu" else "auto")
    inference, step = _works(job, arm.recipe, device)
    loader: Any = job.train_batches(0, 1)
    step()
    training = len(loader) * _both(arm.recipe, _second(iter(loader)), _timed(step))
    judging = 0.0
    for each in each_loader(job.validation_batches(0, 1)):
        if len(each):
            judging += len(each) * _both(arm.recipe, _second(iter(each)), _timed(inference))
    return arm.recipe.optimization.epochs * (training + judging / job.validate_every)


def _both(recipe: Any, reading: float, working: float) -> float:
    """Seconds of a batch, which processes beside may read while the one before is worked on."""
    workers = recipe.run.workers
    return max(reading / workers, working) if workers else reading + working


def _second(batches: Iterator[Any]) -> float:
    """Seconds until the second batch, once the first is there; of one batch alone that of the first."""
    began = time.perf_counter()
    next(batches)
    first = time.perf_counter() - began
    began = time.perf_counter()
    return first if next(batches, None) is None else time.perf_counter() - began


def _timed(work: Work) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
