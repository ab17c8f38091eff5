"""How large a run's network is: parameters, and multiply-adds of an image."""

import operator
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from contagg.affinity import Affinity
from contagg.benchmark.cost import flop_counter, parameter_count
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
    for loader in each_loader(job.validation_batches(0, 1)):
        for images, _ in loader:
            if len(images):
                return images
    crops, _ = next(iter(job.train_batches(0, 1)))
    return crops[0]


def each_loader(loaders: Any) -> list[Any]:
    """What validation runs over, one loader or several, as a list."""
    return loaders if isinstance(loaders, list) else [loaders]


def _multiply_adds(model: nn.Module, images: Any) -> int:
    modes = [(module, module.training) for module in model.modules()]  # parts may be frozen in the other one
    model.eval()
    try:
        math = sdpa_kernel(SDPBackend.MATH)  # the counter does not know the CPU's fused attention
        with flop_counter(model) as counter, _said_by_affinities(model, counter) as beyond, math:
            model(images)
        return counter.get_total_flops() // 2 + sum(beyond)
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _said_by_affinities(model: nn.Module, counter: FlopCounterMode) -> Iterator[list[int]]:
    """What affinities say of themselves beyond what the counter sees of them, one entry each call."""
    beyond: list[int] = []
    before: dict[nn.Module, int] = {}

    def enter(affinity: nn.Module, given: Any) -> None:
        before[affinity] = counter.get_total_flops()

    def leave(affinity: nn.Module, given: Any, found: Any) -> None:
        assert isinstance(affinity, Affinity)
        values, _, grid = given[:3]
        counted = (counter.get_total_flops() - before[affinity]) // 2
        beyond.append(len(values) * affinity.multiply_adds(grid) - counted)

    with ExitStack() as hooks:
        for affinity in affinities(model):
            hooks.callback(affinity.register_forward_pre_hook(enter).remove)
            hooks.callback(affinity.register_forward_hook(leave).remove)
        yield beyond
