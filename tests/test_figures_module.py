"""What all pictures share: scales that are read in grey too, one way of rounding, and that a figure is saved whole."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from contagg.errors import UserError
from contagg.figures import PALETTE, SIGNED, UNSIGNED, new_figure, percent, plain_axes, save_figure


def grey(colours: np.ndarray) -> np.ndarray:
    """Luma of colours (..., RGBA), as a printer without colours has them."""
    return np.asarray(colours)[..., :3] @ [0.299, 0.587, 0.114]


def test_weights_without_signs_darken_evenly_in_grey() -> None:
    steps = np.diff(grey(UNSIGNED(np.linspace(0, 1, 12))))
    assert (steps < 0).all() and steps.min() / steps.max() < 3


def test_signed_weights_are_palest_at_zero_and_blue_is_the_darker_end() -> None:
    shades = grey(SIGNED(np.linspace(0, 1, 11)))
    assert (np.diff(shades[:6]) > 0).all() and (np.diff(shades[5:]) < 0).all()
    assert shades[-1] - shades[0] > 0.2


@pytest.mark.parametrize(
    "seen",
    [
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    ],
    ids=["protanopia", "deuteranopia"],
)
def test_lines_and_signs_differ_to_who_sees_no_red_or_no_green(seen: list[list[float]]) -> None:
    """As Machado et al. (2009) simulate it, on linear RGB."""
    lines = np.array([to_rgb(colour) for colour in PALETTE])
    signs = SIGNED([0.1, 0.9])[:, :3]
    for colours in (lines, signs):
        linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
        found = linear @ np.array(seen).T
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(found, 2)) > 0.1


@pytest.mark.parametrize(
    ("share", "digits", "text"),
    [
        (0.8105, 1, "81.1 %"),  # 81.05 is 81.04999... as a float
        (float(np.float32(0.8105)), 1, "81.1 %"),
        (0.8105, 2, "81.05 %"),
        (0.81049, 1, "81.0 %"),
        (0.125, 0, "13 %"),
        (1.0, 1, "100.0 %"),
        (float("nan"), 1, "nan %"),
    ],
)
def test_shares_are_rounded_as_people_do(share: float, digits: int, text: str) -> None:
    assert percent(share, digits) == text


def test_an_untrained_network_is_named_first(tmp_path: Path) -> None:
    assert new_figure(4, 3, "A title", untrained=True).get_suptitle() == "Untrained network, random weights\nA title"
    figure = new_figure(4, 3, "A title")
    assert figure.get_suptitle() == "A title" and figure.get_facecolor() == (1, 1, 1, 1)
    plain_axes(figure.subplots(), "epoch", whole=True)
    save_figure(figure, tmp_path / "new" / "a.png")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]
    with pytest.raises(UserError, match=r"a\.bmp must end in one of \.png"):
        save_figure(figure, tmp_path / "a.bmp")
