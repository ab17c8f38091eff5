"""What an arm costs: parameters and multiply-adds, and milliseconds and bytes of inference and of a training step."""

import operator
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from lightning_fabric.utilities import move_data_to_device
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from contagg.affinity import Affinity
from contagg.benchmark.bench import describe
from contagg.benchmark.cost import Work, interleaved, parameter_count, peak_bytes
from contagg.benchmark.variants import DTYPES
from contagg.device import choose_device
from contagg.lab.arms import Arm, Arms
from contagg.lab.making import Opener
from contagg.lab.rows import digest
from contagg.nn.aggregation import affinities
from contagg.training.engine import Job


@dataclass(frozen=True, kw_only=True)
class Size:
    """Of the network that a run's weights files hold.

    Attributes:
        parameters: All of them.
        multiply_adds: Of one image as validation sees it: products of matrices and convolutions, and of affinities what
            they say of themselves in closed form, so that transforms and scans count as well. Of a detector that looks
            at regions it depends on how many it finds in that image.
    """

    parameters: int
    multiply_adds: int


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Of a batch of the recipe, on one device: medians of rounds in which all arms took turns, and the most memory."""

    inference_ms: float
    train_ms: float
    inference_mb: float
    train_mb: float


def network(job: Job) -> nn.Module:
    """The part of a job's task that weights files hold."""
    return operator.attrgetter(job.export)(job.task)


def size(job: Job, image: Any = None) -> Size:
    """Parameters and multiply-adds of a job's network.

    Args:
        image: A batch of one; None takes the first that the job validates on.

    Raises:
        UserError: a grid that an affinity cannot serve.
    """
    model = network(job)
    image = validation_images(job)[:1] if image is None else image
    return Size(parameters=parameter_count(model), multiply_adds=_multiply_adds(model, image))


def validation_images(job: Job) -> Any:
    """A batch of what the network is given when it is judged, or, where it is not judged, trained."""
    for loader in _each(job.validation_batches(0, 1)):
        for images, _ in loader:
            if len(images):
                return images
    crops, _ = next(iter(job.train_batches(0, 1)))
    return crops[0]


def _each(loaders: Any) -> list[Any]:
    return loaders if isinstance(loaders, list) else [loaders]


@torch.no_grad()
def _multiply_adds(model: nn.Module, images: Any) -> int:
    was_training = model.training
    model.eval()
    counter, hooks, beyond = FlopCounterMode(display=False), [], 0
    before: dict[nn.Module, int] = {}

    def enter(affinity: nn.Module, given: Any) -> None:
        before[affinity] = counter.get_total_flops()

    def leave(affinity: nn.Module, given: Any, found: Any) -> None:
        nonlocal beyond
        assert isinstance(affinity, Affinity)
        values, _, grid = given[:3]
        counted = (counter.get_total_flops() - before[affinity]) // 2
        beyond += len(values) * affinity.multiply_adds(grid) - counted

    for affinity in affinities(model):
        hooks += [affinity.register_forward_pre_hook(enter), affinity.register_forward_hook(leave)]
    try:
        with counter, sdpa_kernel(SDPBackend.MATH):  # the counter does not know the CPU's fused attention
            model(images)
            counted = counter.get_total_flops() // 2
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    return counted + beyond


def measure(arms: Arms, opener: Opener, rounds: int) -> dict[str, Any]:
    """Time and memory of all arms, on the recipe's device and with one thread, as `runs.json` keeps them."""
    recipe = arms.recipe
    device = choose_device("cpu" if recipe.run.accelerator == "cpu" else "auto")
    works: dict[str, Work] = {}
    for arm in arms.arms:
        inference, step = _works(opener.job(arm.recipe, arm.changes), arm.recipe, device)
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
    """Seconds that a run of an arm will take, from two batches of training and one of validation."""
    job = opener.job(arm.recipe, arm.changes)
    device = choose_device("cpu" if arm.recipe.run.accelerator == "cpu" else "auto")
    inference, step = _works(job, arm.recipe, device)
    loader = job.train_batches(0, 1)
    reading = _second(iter(loader))
    step()
    training = len(loader) * (reading + _timed(step))  # type: ignore[arg-type]
    judging = 0.0
    for each in _each(job.validation_batches(0, 1)):
        if len(each):
            judging += len(each) * (_second(iter(each)) + _timed(inference))
    return arm.recipe.optimization.epochs * (training + judging / job.validate_every)


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
