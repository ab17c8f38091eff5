"""Hard concrete gates against sampling and finite differences, and the budget that their logits are learnt under."""

import pytest
import torch

from contagg.placement.gates import Gates, hard_concrete, logit_of, open_probability
from contagg.placement.knapsack import best_set


def test_the_chance_to_be_open_is_that_of_samples() -> None:
    logits = torch.tensor([-3.0, -1.0, 0.0, 0.7, 2.0], dtype=torch.float64)
    uniform = torch.rand(400_000, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z, _ = hard_concrete(logits, uniform)
    assert z.min() == 0 and z.max() == 1 and ((z > 0) & (z < 1)).any()
    torch.testing.assert_close((z > 0).double().mean(0), open_probability(logits), rtol=0, atol=3e-3)
    assert open_probability(torch.tensor(logit_of(0.3))).item() == pytest.approx(0.3)


def test_the_slope_is_that_of_a_finite_difference() -> None:
    logits = torch.linspace(-2, 2, 101, dtype=torch.float64)
    uniform = torch.rand(101, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    step = 1e-6
    (above, _), (below, _), (z, slope) = (hard_concrete(logits + by, uniform) for by in (step, -step, 0.0))
    torch.testing.assert_close(slope, (above - below) / (2 * step), rtol=1e-4, atol=1e-7)
    assert slope[(z == 0) | (z == 1)].abs().max() == 0 and slope.max() > 0.1


def learnt(gains: list[float], costs: list[float], budget: float, noise: float = 0.0, scale: float = 1.0) -> Gates:
    """Gates after 600 steps on the loss -sum(gain z), whose gradient has noise."""
    generator, steps = torch.Generator().manual_seed(3), 600
    shares = torch.tensor(costs, dtype=torch.float64) / sum(costs)
    gates = Gates(shares, budget, 10 / steps, span=steps)
    for _ in range(steps):
        uniform, error = torch.rand(2, len(gains), generator=generator, dtype=torch.float64)
        _, slope = hard_concrete(gates.logits, uniform)
        gates.learn(scale * (-torch.tensor(gains, dtype=torch.float64) + noise * (error - 0.5)) * slope)
    return gates


@pytest.mark.parametrize("scale", [1.0, 1e-4])
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_the_budget_is_met_by_the_blocks_that_gain_most(noise: float, scale: float) -> None:
    gates = learnt([1.0, 0.1, 0.3, 0.05], [1, 1, 1, 1], 0.5, noise, scale)
    assert gates.expected_cost == pytest.approx(0.5, abs=0.02)
    assert (gates.probabilities > 0.5).tolist() == [True, False, True, False]


def test_what_gains_more_for_its_cost_is_open() -> None:
    """1 / 4 of the sum for 0.5, against three of 1 / 12 each for 0.3: the three and not the one, within a quarter."""
    gates = learnt([0.5, 0.3, 0.3, 0.3], [3, 1, 1, 1], 0.5)
    assert (gates.probabilities > 0.5).tolist() == [False, True, True, True]
    assert gates.expected_cost == pytest.approx(0.5, abs=0.02)


def test_a_budget_with_room_for_all_that_gains_has_no_price() -> None:
    gates = learnt([1.0, -0.2, 0.5, -0.1], [1, 1, 1, 1], 0.9)
    assert (gates.probabilities > 0.5).tolist() == [True, False, True, False] and gates.mu == 0


def test_what_gains_too_little_is_closed_whatever_the_budget() -> None:
    shares = torch.full((4,), 0.25)
    gates = Gates(shares, 0.9, 0.05, worth=0.1)
    gains = torch.tensor([1.0, 0.0, 0.001, 0.2])
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        _, slope = hard_concrete(gates.logits, torch.rand(4, generator=generator, dtype=torch.float64))
        gates.learn(-gains * slope)
    assert (gates.probabilities > 0.5).tolist() == [True, False, False, True]


def test_all_start_half_open_and_the_budget_falls_from_there() -> None:
    shares = torch.full((4,), 0.25)
    gates = Gates(shares, 0.1, 0.0, span=100)
    assert gates.expected_cost == pytest.approx(0.5) == gates.aim
    for aim in (0.5, 0.1, 0.1):
        assert gates.aim == pytest.approx(aim)
        for _ in range(80):
            gates.learn(torch.zeros(4))
    assert Gates(shares, 0.7, 0.0, span=100).expected_cost == pytest.approx(0.7)


def test_one_that_gains_is_found_under_noise_and_a_small_budget() -> None:
    """Its gain is half of the gradient's noise, the budget is one of four, and all must gain a little."""
    found, steps, gains = [], 180, torch.tensor([0.06, 0.02, 0.0, 0.0], dtype=torch.float64)
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        gates = Gates(torch.full((4,), 0.25), 0.26, 10 / steps, worth=0.01, span=steps)
        for _ in range(steps):
            _, slope = hard_concrete(gates.logits, torch.rand(4, generator=generator, dtype=torch.float64))
            gates.learn((-gains + 0.1 * torch.randn(4, generator=generator, dtype=torch.float64)) * slope)
        found.append(best_set(gates.log_odds.tolist(), [0.25] * 4, 0.26))
    assert found.count((0,)) >= 16, "9 where the budget is that small at once"


def test_evidence_is_the_mean_by_its_standard_error() -> None:
    gates = Gates(torch.full((2,), 0.5), 0.5, 0.01)
    gradients = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.3
    for gradient in gradients:
        gates.learn(gradient)
    torch.testing.assert_close(gates.evidence, -gradients.mean(0) / (gradients.std(0, correction=0) / 50**0.5))


def test_no_gradient_is_no_evidence() -> None:
    """Not even of a sign, which a table would show."""
    gates = Gates(torch.full((2,), 0.5), 0.5, 0.01)
    gates.learn(torch.zeros(2))
    assert [f"{each:g}" for each in gates.evidence.tolist()] == ["0", "0"]


def test_gates_go_on_from_their_state() -> None:
    one, other = learnt([1.0, 0.2], [1, 2], 0.5), Gates(torch.tensor([1, 2]).double() / 3, 0.5, 10 / 600)
    other.load_state_dict(one.state_dict())
    gradient = torch.tensor([0.1, -0.2])
    one.learn(gradient)
    other.learn(gradient)
    assert torch.equal(one.logits, other.logits) and one.mu == other.mu
