"""The gates of a placement: how likely each block's dynamic part is open, and how that is learnt under a budget.

z = min(1, max(0, 1.2 sigmoid((log u - log(1 - u) + a) / (2/3)) - 0.1)), u uniform, a learnt: the hard concrete
distribution (Louizos, Welling, Kingma, "Learning Sparse Neural Networks through L0 Regularization", 2018), which is
exactly 0 or 1 often, and between them as often as its gradient needs.

The learnt a minimise loss + mu (E[cost] - budget)+, in which mu rises while the expected cost is above the budget and
falls while it is below (dual ascent): a person states a budget and no weight of it. All start half open at least, and
the budget falls from there to the one that was stated.

Costs are shares here: 0 with all closed, 1 with all open. L is the number of blocks.
"""

import math
from typing import Any

import torch
from torch import Tensor

TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1
BETAS, EPS = (0.9, 0.99), 1e-8
DUAL_RATE, DAMPING = 10.0, 5.0
"""mu's rate by that of the logits, and how much more of it a cost above the budget brings at once, against swings."""
LEAST_START = 0.5
"""A part that is seldom open is seldom learnt and seldom judged: its gate would close whatever it is worth."""
FALLING = 0.8
"""Part of the steps over which the cost aimed at falls to the budget: if it fell at once, mu would overshoot."""
FARTHEST = 5.0
"""Beyond this a logit hardly moves any more, whatever its block is then found to be worth."""

_STATE = ("logits", "mean", "square", "total", "total_square", "mu", "scale", "steps")


def open_probability(logits: Tensor) -> Tensor:
    """P(z > 0) in closed form.

    >>> open_probability(torch.tensor([0.0])).item()  # doctest: +ELLIPSIS
    0.831...
    """
    return torch.sigmoid(logits - TEMPERATURE * math.log(-LOW / HIGH))


def logit_of(probability: float) -> float:
    """The a with which z is above 0 with a probability."""
    return math.log(probability / (1 - probability)) + TEMPERATURE * math.log(-LOW / HIGH)


def hard_concrete(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """z (L,) of uniform numbers (L,), and the derivative of each by its a."""
    soft = torch.sigmoid((torch.logit(uniform) + logits) / TEMPERATURE)
    stretched = soft * (HIGH - LOW) + LOW
    inside = (stretched > 0) & (stretched < 1)
    return stretched.clamp(0, 1), inside * (HIGH - LOW) * soft * (1 - soft) / TEMPERATURE


class Gates:
    """The logits, mu, and the moments of their optimizer (Adam), on the CPU in double precision.

    Args:
        costs: (L,), what each adds where it is open, of a sum of 1.
        budget: Of that sum, in (0, 1).
        lr: Of the logits; mu's is DUAL_RATE times that.
        span: Steps in which they learn.
        worth: What all places together must lower the loss by: the least price of that sum, whatever the budget.
    """

    def __init__(self, costs: Tensor, budget: float, lr: float, worth: float = 0.0, span: int = 1) -> None:
        self.costs, self.budget, self.lr, self.worth, self.span = costs.double(), budget, lr, worth, span
        self.logits = torch.full_like(self.costs, logit_of(self.start))
        self.mean, self.square = torch.zeros_like(self.logits), torch.zeros_like(self.logits)
        self.total, self.total_square = torch.zeros_like(self.logits), torch.zeros_like(self.logits)
        self.mu = 0.0
        self.scale = 0.0
        self.steps = 0

    @property
    def start(self) -> float:
        """The chance to be open from which all learn: the budget's share, but at least LEAST_START."""
        return min(max(self.budget, LEAST_START), 0.95)

    @property
    def aim(self) -> float:
        """The budget of the step that is next."""
        return max(self.budget, self.start + (self.budget - self.start) * self.steps / (FALLING * self.span))

    @property
    def probabilities(self) -> Tensor:
        """(L,), of being open."""
        return open_probability(self.logits)

    @property
    def log_odds(self) -> Tensor:
        """(L,), of being open: the worth of having each open, as the gates found it."""
        return torch.logit(self.probabilities)

    @property
    def expected_cost(self) -> float:
        """As a share."""
        return float(self.costs @ self.probabilities)

    @property
    def evidence(self) -> Tensor:
        """(L,), by how many standard errors opening each lowered the loss over the steps so far."""
        mean = self.total / max(self.steps, 1)
        spread = (self.total_square / max(self.steps, 1) - mean.square()).clamp_min(0)
        error = (spread / max(self.steps, 1)).sqrt().clamp_min(1e-300)
        return 0.0 - mean / error  # -mean would be -0 where there was no gradient

    def learn(self, gradient: Tensor) -> None:
        """One step, given the loss's gradient by the logits (L,).

        mu counts in typical gradients of the loss, so that neither the loss's scale nor the network's matters.
        """
        self.steps += 1
        gradient = gradient.double()
        self.total, self.total_square = self.total + gradient, self.total_square + gradient.square()
        self.scale += (float(gradient.abs().mean()) - self.scale) * max(1 - BETAS[1], 1 / self.steps)
        above = self.expected_cost - self.aim
        self.mu = max(self.mu + DUAL_RATE * self.lr * above, 0.0)
        price = max((self.mu + DAMPING * above) * self.scale * len(self.costs), self.worth)
        odds = self.probabilities
        self._adam(gradient + price * self.costs * odds * (1 - odds))

    def _adam(self, gradient: Tensor) -> None:
        self.mean.lerp_(gradient, 1 - BETAS[0])
        self.square.lerp_(gradient.square(), 1 - BETAS[1])
        mean, square = self.mean / (1 - BETAS[0] ** self.steps), self.square / (1 - BETAS[1] ** self.steps)
        self.logits = (self.logits - self.lr * mean / (square.sqrt() + EPS)).clamp(-FARTHEST, FARTHEST)

    def state_dict(self) -> dict[str, Any]:
        """All that is learnt."""
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""
        for name, value in state.items():
            setattr(self, name, value.clone() if isinstance(value, Tensor) else value)
