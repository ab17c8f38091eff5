"""The network of a run changed while it trains: dynamic parts are left for good, and the optimizer goes on without."""

from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn

from contagg.nn.aggregation import Aggregation
from contagg.placement.places import Place, affinity_option
from contagg.training.averaging import MovingAverage


def carriers(trainer: Trainer, task: LightningModule) -> list[nn.Module]:
    """What holds the networks of a run: the task and, where there is one, its moving average."""
    averages = [part.average for part in trainer.callbacks if isinstance(part, MovingAverage)]  # type: ignore[attr-defined]
    return [task, *averages]


class SharedPlaces:
    """The places of a task's networks: those of one number share z and fate, as a student's and its teacher's do.

    Args:
        task: Whose networks they are. A training state that was saved once places were left has no queries and keys of
            them; what it is loaded into leaves them first.
        networks: In the task, all alike.
        places: Of each of them.
    """

    def __init__(self, task: LightningModule, networks: Sequence[nn.Module], places: Sequence[Place]) -> None:
        known = {id(module): name for name, module in task.named_modules()}
        found = [known[id(network)] for network in networks]
        self.places, self._network = places, networks[0]
        self.names = [
            [".".join(filter(None, (network, place.name))) for network in found] for place in places
        ]  # within the task, of each place in each network
        task.register_load_state_dict_pre_hook(self._fit_to_state)

    def _fit_to_state(self, task: nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
        for name in chain.from_iterable(self.names):
            aggregation = _aggregation(task, name)
            expected = {f"{prefix}{name}.affinity.{key}" for key in aggregation.affinity.state_dict()}
            if aggregation.closable() is not None and not expected <= state.keys():
                aggregation.leave_static()

    def affinity(self, opened: Collection[int]) -> Any:
        """The networks' option `affinity` with these places open."""
        return affinity_option(self._network, self.places, opened)

    def open(self, task: nn.Module, values: Sequence[float], z: Tensor | None = None) -> None:
        """Give each place its z of `values`, which is z's entry where that is to have a gradient.

        A block that is wholly open or closed need not multiply by it.
        """
        for number, (value, names) in enumerate(zip(values, self.names, strict=True)):
            for name in names:
                mixture = _aggregation(task, name).closable()
                assert mixture is not None
                if value == 0:
                    mixture.close()
                else:
                    mixture.open(None if value == 1 or z is None else z[number : number + 1])

    def leave(self, trainer: Trainer, task: LightningModule, kept: Collection[int]) -> None:
        """Leave the static parts of all places but the kept ones alone, in the task and in its moving average.

        The optimizer is made anew over what is left, as it is made where such a state is loaded, and keeps its moments.
        As a column of an output projection takes up the gate's weight f, its gradient is that by f from now on, and so
        are the moments.
        """
        factors: dict[Tensor, Tensor] = {}
        closed = [name for number, names in enumerate(self.names) if number not in kept for name in names]
        for carrier in carriers(trainer, task):
            for name in closed:
                aggregation = _aggregation(carrier, name)
                if (factor := aggregation.leave_static()) is not None:
                    factors[aggregation.output.weight] = factor
        (before,) = trainer.optimizers
        after: Any = task.configure_optimizers()
        for group in after.param_groups:
            for parameter in group["params"]:
                if parameter in before.state:
                    after.state[parameter] = _rescaled(before.state[parameter], factors.get(parameter))
        trainer.strategy.optimizers = [after]


def _aggregation(carrier: nn.Module, name: str) -> Aggregation:
    found = carrier.get_submodule(name)
    assert isinstance(found, Aggregation)
    return found


def _rescaled(moments: Mapping[str, Any], factor: Tensor | None) -> dict[str, Any]:
    powers = {"exp_avg": 1, "exp_avg_sq": 2}
    if factor is None:
        return dict(moments)
    by = torch.where(factor == 0, 1.0, factor)  # of what had no gradient there is none to rescale
    return {name: value / by ** powers[name] if name in powers else value for name, value in moments.items()}
