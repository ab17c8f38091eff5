"""One run that finds out where the dynamic affinity goes: warm-up, learning, the choice, and training on with it.

A block's answer is (alpha z A + beta S) V. In the warm-up z is drawn without being learnt, then from gates that learn
by the loss under a budget; at a stated step the best set within the budget is left open for good, the queries and keys
of all others are removed, and training goes on to the end of the same schedule.
"""

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from contagg.errors import UserError, plural
from contagg.placement.config import Budget, PlacementConfig
from contagg.placement.gates import Gates, hard_concrete
from contagg.placement.knapsack import best_set
from contagg.placement.leaving import SharedPlaces
from contagg.placement.price import Prices, shown
from contagg.training.saving import SaveState
from contagg.training.schedules import schedules_of

LEARNT_LOGITS = 10.0
"""How far a logit goes whose gradient always points one way, over the steps in which it is learnt."""
POINTS = 250
"""Of the picture, about."""
_PRIME = 1_000_003


@dataclass(frozen=True)
class Phases:
    """After how many steps gates are learnt, and after how many the choice is made."""

    learn: int
    freeze: int

    @classmethod
    def of(cls, config: PlacementConfig, steps: int) -> "Phases":
        """Those of a run of so many steps. UserError where they are too few."""
        phases = cls(round(config.warmup * steps), round(config.freeze * steps))
        if not phases.learn < phases.freeze < steps:
            raise UserError(
                f"placement: of {plural(steps, 'step')} none lies between placement.warmup {config.warmup:g} and "
                f"placement.freeze {config.freeze:g}, or after it: raise optimization.epochs"
            )
        return phases


class Placement(Callback):
    """Draws z before each step, lets the gates learn after it, and makes the choice.

    All of it is a function of seed and step, so that a run goes on exactly.

    Args:
        shared: The places of the task's networks.
        config: What was asked for.
        seed: Of what is drawn.
        prices: None in all processes but the first, which tells the others.
    """

    gates: Gates
    """From the start of training on, or from the state that is gone on from, even if nothing is left to train."""

    def __init__(self, shared: SharedPlaces, config: PlacementConfig, seed: int, prices: Prices | None) -> None:
        self.shared, self.config, self.seed, self.prices = shared, config, seed, prices
        self.chosen: tuple[int, ...] | None = None
        self._z, self._slope = torch.zeros(0), torch.zeros(0)

    def state_dict(self) -> dict[str, Any]:
        """Gates, choice and prices."""
        assert self.prices is not None
        prices = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self.prices).items()}
        chosen = None if self.chosen is None else list(self.chosen)
        return {"gates": self.gates.state_dict(), "chosen": chosen, "prices": prices}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them back; the prices of the first start hold, whatever is measured now."""
        self.prices = Prices.of(state_dict["prices"])
        self.chosen = None if state_dict["chosen"] is None else tuple(state_dict["chosen"])
        self.gates = _new_gates(self.prices, self.room, self.config.worth)
        self.gates.load_state_dict(state_dict["gates"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Learn the steps of the run and, from the first process, the prices."""
        self.prices = trainer.strategy.broadcast(self.prices)
        assert self.prices is not None
        schedules = schedules_of(pl_module.optimization, trainer)  # type: ignore[arg-type]
        self.phases = phases = Phases.of(self.config, schedules.steps)
        if not hasattr(self, "gates"):
            self.gates = _new_gates(self.prices, self.room, self.config.worth)
        self.gates.span = phases.freeze - phases.learn
        self.gates.lr = self.config.lr or LEARNT_LOGITS / self.gates.span
        weights = _saving(trainer).weights
        weights.first_epoch = phases.freeze // schedules.steps_per_epoch + 1
        self._describe(trainer)
        if trainer.is_global_zero:
            print(
                f"placement: {self.prices.told([place.label for place in self.shared.places])}\n"
                f"placement: dynamic parts open at random up to step {phases.learn}, learnt up to step {phases.freeze} "
                f"of {schedules.steps}, then chosen: at most {shown(self.prices.closed + self.room, self.prices.unit)}",
                flush=True,
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Make the choice if it is time; until then draw z, once a step."""
        if self.chosen is not None or batch_idx % trainer.accumulate_grad_batches:
            return
        step = trainer.global_step
        if step >= self.phases.freeze:
            self._choose(trainer, pl_module)
            return
        generator = torch.Generator().manual_seed((self.seed * _PRIME + step) % 2**63)
        uniform = torch.rand(len(self.shared.places), generator=generator, dtype=torch.float64)
        if step < self.phases.learn:
            z = _at_random(uniform, step, self.phases.learn, self.gates.start)
            self._slope = torch.zeros_like(z)
        else:
            z, self._slope = hard_concrete(self.gates.logits, uniform)
        self._z = z.float().to(pl_module.device).requires_grad_()
        self.shared.open(pl_module, z.tolist(), self._z)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Let the gates learn by the loss's mean gradient over all processes."""
        if self.chosen is not None or trainer.global_step < self.phases.learn:
            return
        by_z = torch.zeros_like(self._z) if self._z.grad is None else self._z.grad
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        by_z = by_z.detach() / (1.0 if scaler is None else scaler.get_scale())
        by_z = trainer.strategy.reduce(by_z, reduce_op="mean").cpu().double()
        if by_z.isfinite().all():  # else fp16 overflowed, and nothing takes this step
            self.gates.learn(by_z * self._slope)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Until the choice is made, validate what it would be now; in the warm-up all that is open."""
        if self.chosen is None:
            everything = trainer.global_step < self.phases.learn
            numbers = range(len(self.shared.places))
            now = numbers if everything else self.best()
            self.shared.open(pl_module, [float(number in now) for number in numbers])

    @property
    def room(self) -> float:
        """What the open places may cost together."""
        assert self.prices is not None
        return self.prices.room(Budget.read(self.config.budget))

    def best(self) -> tuple[int, ...]:
        """The numbers of the best set within the budget, as the gates stand."""
        assert self.prices is not None
        return best_set(self.gates.log_odds.tolist(), self.prices.added, self.room)

    def _choose(self, trainer: Trainer, task: LightningModule) -> None:
        assert self.prices is not None
        self.shared.open(task, [1.0] * len(self.shared.places))
        self.chosen = self.best()
        self.shared.leave(trainer, task, self.chosen)
        self._describe(trainer)
        if trainer.is_global_zero:
            kept = ", ".join(self.shared.places[number].label for number in self.chosen) or "none"
            cost = shown(self.prices.cost(self.chosen), self.prices.unit)
            print(f"placement: step {trainer.global_step}: {kept} stay open, {cost}; training goes on so", flush=True)

    def _describe(self, trainer: Trainer) -> None:
        """From the choice on, weights files say what network they are of."""
        if self.chosen is not None:
            weights = _saving(trainer).weights
            weights.metadata = with_affinity(weights.metadata, self.shared.affinity(self.chosen))


class Account(Callback):
    """Keeps what the picture shows, as a part of the training state, and says after each epoch how the gates stand."""

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        self.history: list[list[float]] = []
        """Of some steps: the step, the expected share of what the places cost, mu, and each one's chance to be open."""

    def state_dict(self) -> dict[str, Any]:
        """The history."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self.history = [list(row) for row in state_dict["history"]]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note how the gates stand, at most about `POINTS` times."""
        step, phases, gates = trainer.global_step, self.placement.phases, self.placement.gates
        noted = self.history and self.history[-1][0] == step
        if self.placement.chosen is not None or step % max(1, phases.freeze // POINTS) or noted:
            return
        chances = _chances(self.placement, step)
        self.history.append([step, float(gates.costs @ chances), gates.mu, *chances.tolist()])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Until the choice is made."""
        if self.placement.chosen is not None or not trainer.is_global_zero:
            return
        placement, prices = self.placement, self.placement.prices
        assert prices is not None
        found = _chances(placement, trainer.global_step)
        chances = zip(placement.shared.places, found.tolist(), strict=True)
        stand = ", ".join(f"{place.label} {chance:.2f}" for place, chance in chances)
        expected = shown(prices.closed + float(placement.gates.costs @ found) * sum(prices.added), prices.unit)
        limit = shown(prices.closed + placement.room, prices.unit)
        print(f"placement: chance to be open {stand}; expected cost {expected} of {limit}", flush=True)


def _new_gates(prices: Prices, room: float, worth: float) -> Gates:
    """That do not learn before training starts."""
    added = torch.tensor(prices.added, dtype=torch.float64)
    return Gates(added / added.sum(), room / float(added.sum()), lr=0.0, worth=worth)


def _chances(placement: Placement, step: int) -> Tensor:
    """(L,), of each place to be open after so many steps."""
    gates, learn = placement.gates, placement.phases.learn
    if step > learn:
        return gates.probabilities
    return torch.full_like(gates.logits, _warmup_chance(step, learn, gates.start))


def _saving(trainer: Trainer) -> SaveState:
    return next(part for part in trainer.callbacks if isinstance(part, SaveState))  # type: ignore[attr-defined]


def with_affinity(metadata: Mapping[str, Any], affinity: Any) -> dict[str, Any]:
    """What a weights file says of itself, with other words for its network."""
    changed = copy.deepcopy(dict(metadata))
    described = changed["detector" if "detector" in changed else "model"]
    described["options"] = {**described["options"], "affinity": affinity}
    return changed


def _at_random(uniform: Tensor, step: int, steps: int, end: float) -> Tensor:
    """z (L,) of a warm-up's step: open with a chance that falls from 1 to `end`.

    Of eight steps one has all open and one all closed, which are drawn too seldom otherwise.
    """
    if step % 8 in (0, 4):
        return torch.full_like(uniform, float(step % 8 == 0))
    return (uniform < _warmup_chance(step, steps, end)).double()


def _warmup_chance(step: int, steps: int, end: float) -> float:
    return 1 + (end - 1) * step / max(steps, 1)
