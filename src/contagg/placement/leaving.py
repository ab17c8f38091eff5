"""The network of a run changed while it trains: dynamic parts are left for good, and the optimizer goes on without."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn

from contagg.nn.aggregation import Aggregation
from contagg.training.averaging import MovingAverage


def carriers(trainer: Trainer, task: LightningModule) -> list[nn.Module]:
    """What holds the networks of a run: the task and, where there is one, its moving average."""
    averages = [part.average for part in trainer.callbacks if isinstance(part, MovingAverage)]  # type: ignore[attr-defined]
    return [task, *averages]


def aggregation_of(carrier: nn.Module, name: str) -> Aggregation:
    """An aggregation by its name."""
    found = carrier.get_submodule(name)
    assert isinstance(found, Aggregation)
    return found


def leave(trainer: Trainer, task: LightningModule, names: Iterable[str]) -> None:
    """Leave the static parts of these aggregations alone, in the task and in its moving average.

    The optimizer is made anew over what is left, as it is made where such a state is loaded, and keeps its moments. As
    a column of an output projection takes up the gate's weight f, its gradient is that by f from now on, and so are
    the moments.
    """
    factors: dict[Tensor, Tensor] = {}
    for carrier in carriers(trainer, task):
        for name in names:
            aggregation = aggregation_of(carrier, name)
            if (factor := aggregation.leave_static()) is not None:
                factors[aggregation.output.weight] = factor
    (before,) = trainer.optimizers
    after: Any = task.configure_optimizers()
    for group in after.param_groups:
        for parameter in group["params"]:
            if parameter in before.state:
                after.state[parameter] = _rescaled(before.state[parameter], factors.get(parameter))
    trainer.strategy.optimizers = [after]


def _rescaled(moments: Mapping[str, Any], factor: Tensor | None) -> dict[str, Any]:
    powers = {"exp_avg": 1, "exp_avg_sq": 2}
    if factor is None:
        return dict(moments)
    by = torch.where(factor == 0, 1.0, factor)  # of what had no gradient there is none to rescale
    return {name: value / by ** powers[name] if name in powers else value for name, value in moments.items()}
