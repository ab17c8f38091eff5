"""The picture of a placement: costs in the unit that the budget was given in."""

import pytest

from contagg.placement.config import Budget
from contagg.placement.handover import Finding
from contagg.placement.picture import gates_figure
from contagg.placement.places import Place
from contagg.placement.price import Prices


@pytest.mark.parametrize(
    ("budget", "label", "closed", "limit"),
    [
        ("0.75", "% of all open", 50.0, 75.0),
        ("3.5G", "billions of multiply-adds", 2.0, 3.5),
        ("35ms", "ms", 20.0, 35.0),
    ],
)
def test_costs_are_in_the_budgets_words(budget: str, label: str, closed: float, limit: float) -> None:
    unit, one = ("ms", 10.0) if budget.endswith("ms") else ("multiply-adds", 1e9)
    places = [Place(name=f"s{n}", stage=n, block=1, word="attention + dwconv3", static_word="dwconv3") for n in (1, 2)]
    finding = Finding(
        places=places,
        prices=Prices(unit=unit, size=(64, 64), closed=2 * one, added=(one, one)),
        budget=Budget.read(budget),
        chosen=(1,),
        scores=[0.1, 0.9],
        evidence=[0.0, 3.0],
        history=[[0, 1.0, 0.0, 1.0, 1.0], [1, 0.0, 0.0, 0.0, 0.0]],
    )
    figure = gates_figure(finding)
    below = figure.axes[1]
    cost, line = below.get_lines()
    assert below.get_ylabel().replace("\n", " ") == f"expected cost {label}"
    assert list(line.get_ydata()) == [limit, limit] and list(cost.get_ydata()) == [2 * closed, closed]
