"""Mixers side by side: facts known on paper, a picture with a cell a word, and the page that is made of them."""

import csv
import json
import math
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import contagg
from contagg.affinity import DepthwiseConv, Site, build_affinity, registry
from contagg.affinity.fixed import Identity
from contagg.cli import main
from contagg.errors import UserError
from contagg.inspect.mixers import CHANNELS, GROUPS, all_words, cost_law, grid_of, mean_distance, measure, rank
from contagg.inspect.mixers_figure import mixers_figure
from contagg.inspect.mixers_table import flower, measured, mixers_table, token_at
from contagg.names import _of_affinities
from tools.mixers_page import page, what

PAGE = Path(__file__).parents[2] / "docs" / "mixers.md"
NOISE = Image.effect_noise((60, 40), 90).convert("RGB")


@pytest.mark.parametrize(
    ("word", "family", "reach", "through", "law", "one_grid"),
    [
        ("dwconv5", ("static", "some"), 2, 216, "N", False),
        ("pool3", ("static", "some"), 1, 215, "0", False),
        ("deformable9", ("dynamic", "some"), None, 216, "N", False),
        ("linear", ("dynamic", "few"), None, 32, "N", False),
        ("pooled4", ("dynamic", "few"), None, 15, "N^2", False),
        ("token mlp/32 rank 49", ("static", "few"), None, 49, "N", True),
        ("attention rope", ("dynamic", "all"), None, 216, "N^2", False),
        ("heat", ("static", "all"), None, 216, "N^1.5", False),
        ("filter", ("static", "all"), None, 216, "N log N", True),
    ],
)
def test_what_is_known_on_paper_is_found(word, family, reach, through, law, one_grid) -> None:
    mixer = measure(word, NOISE, (6, 9), steps=0)
    assert (mixer.family, mixer.reach, mixer.through, mixer.law, mixer.one_grid, mixer.noise_left) == (
        family,
        reach,
        through,
        law,
        one_grid,
        None,
    )
    assert mixer.row.shape == (12, 18) and mixer.row.abs().mean().item() == pytest.approx(1)


def test_the_identity_gathers_from_itself_alone() -> None:
    mixer = measure("identity", NOISE, (3, 7), steps=0)
    assert mixer.row[3, 7] == 216 and mixer.distance == 0 and mixer.rank == 216 and mixer.parameters == 0


def test_distance_and_rank_by_hand() -> None:
    """Two tokens side by side and one below the first: who gathers from whom, and singular values of a diagonal."""
    swap = torch.tensor([[[0.0, 1, 0, 0], [1, 0, 0, 0], [0.5, 0, 0.5, 0], [-1, 0, 0, 0]]])
    assert mean_distance(swap, (2, 2)) == pytest.approx((1 + 1 + 0.5 + math.sqrt(2)) / 4)
    diagonals = torch.diag_embed(torch.tensor([[4.0, 2, 0.03, 0.001], [1, 1, 1, 1], [1, 1, 1, 0]]))
    assert [rank(diagonals[:1], 1e-3), rank(diagonals, 1e-3), rank(diagonals[:1], 0.1)] == [3, 3, 2]


def test_a_cost_of_no_known_law_is_given_as_a_power() -> None:
    class Odd(Identity):
        def multiply_adds(self, grid):
            return round((grid[0] * grid[1]) ** 1.25)

    assert cost_law(Odd()) == "N^1.25"


def test_a_mixer_learns_and_what_has_no_neighbours_learns_less() -> None:
    left = {mixer.word: mixer.noise_left for mixer in measured(["dwconv3", "identity"], flower(), steps=40)}
    assert 0 < left["dwconv3"] < 0.9 * left["identity"]


def test_words_of_others_and_mixtures_are_there() -> None:
    contagg.register_affinity("unmoved", lambda site: Identity(), ["unmoved"])
    assert "unmoved" in all_words() and all_words(["attention + unmoved"] * 2) == ["attention + unmoved"]
    assert measure("attention + unmoved", NOISE, (0, 0), steps=0).family == ("dynamic", "all")
    with pytest.raises(UserError, match="Did you mean 'unmoved'"):
        all_words(["unmoveed"])


def test_a_grid_is_as_the_image_and_a_position_in_its_token() -> None:
    for size, grid in (((640, 427), (12, 18)), ((427, 640), (18, 12)), ((50, 50), (15, 14)), ((2000, 30), (3, 72))):
        image = Image.new("RGB", size)
        assert grid_of(image) == grid and token_at(image, (1.0, 1.0)) == (grid[0] - 1, grid[1] - 1)
        assert token_at(image, (0, 0)) == (0, 0)
    with pytest.raises(UserError, match="position 40,0 is outside the image of 40 rows, 60 columns"):
        token_at(NOISE, (40, 0))


@pytest.mark.parametrize("size", [(90, 60), (60, 90)])
def test_every_word_has_one_cell_within_the_picture_and_none_covers_another(size: tuple[int, int]) -> None:
    words = ["attention", "dwconv3", "identity", "linear", "token mlp", "pool3", "window7", "agent49 + dwconv5"]
    image = Image.effect_noise(size, 90).convert("RGB")
    figure = mixers_figure(measured(words, image, steps=0), image, token_at(image, (0.5, 0.5)), 0)
    cells = {text.get_text(): axes for axes in figure.axes for text in axes.texts if text.get_text() in words}
    assert set(cells) == set(words)
    boxes = [axes.get_position() for axes in cells.values()]
    assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 for box in boxes)
    assert not any(one.overlaps(other) for index, one in enumerate(boxes) for other in boxes[:index])
    assert any(text.get_text().startswith("Untrained") for axes in figure.axes for text in axes.texts)


@pytest.mark.parametrize("size", [(60, 40), (600, 30), (20, 300)])
@pytest.mark.parametrize("words", [["dwconv3"], ["dwconv3", "attention"]])
def test_few_mixers_leave_room_for_what_explains_them(words: list[str], size: tuple[int, int]) -> None:
    """Whatever the image's form, all text lies within the picture, and a picture is no strip."""
    image = Image.effect_noise(size, 90).convert("RGB")
    figure = mixers_figure(measured(words, image, steps=0), image, token_at(image, (0.5, 0.5)), 0)
    figure.draw_without_rendering()
    every = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
    bands = [text.get_window_extent() for text in figure.texts]
    for box in (text.get_window_extent() for text in every if text.get_text()):
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1
    assert not any(one.overlaps(other) for index, one in enumerate(bands) for other in bands[:index])
    assert figure.get_figwidth() < 12


def test_a_mixer_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_KINDS", dict(registry._KINDS))
    contagg.register_affinity("falls over", lambda site: FallsOver(site.channels, 3))
    with pytest.raises(UserError, match=r"the mixer 'falls over': RuntimeError: over \(.*test_mixers.py, line \d+\)"):
        measured(["falls over"], NOISE, steps=0)


class FallsOver(DepthwiseConv):
    def rows(self, tokens, grid, positions, mask=None):
        raise RuntimeError("over")


def test_no_rank_is_above_the_most_that_there_can_be() -> None:
    image = flower()
    for mixer in measured(["delta", "linear", "attention"], image, steps=0):
        assert mixer.rank <= mixer.through


def test_the_command_prints_saves_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    NOISE.save(tmp_path / "a.png")
    for name in ("numbers.json", "numbers.csv"):
        given = ["--steps", "0", "--words", "dwconv3, attention + dwconv5", "--save", str(tmp_path / name)]
        main(["inspect", "mixers", str(tmp_path / "a.png"), "-o", str(tmp_path / "b.png"), *given])
        printed = capsys.readouterr().out
        assert "random weights" in printed and "attention + dwconv5  dynamic  all tokens" in printed
    with Image.open(tmp_path / "b.png") as picture:
        assert picture.width > 300
    saved = json.loads((tmp_path / "numbers.json").read_text())
    rows = list(csv.DictReader((tmp_path / "numbers.csv").read_text().splitlines()))
    assert saved["grid"] == [12, 18] and saved["steps"] == 0
    for row, mixer in zip(rows, saved["mixers"], strict=True):
        assert len(mixer["times_uniform"]) == 12 and row["word"] == mixer["word"]
        assert int(row["rank"]) == mixer["rank"] and row["cost_law"] == mixer["cost_law"]
    with pytest.raises(SystemExit):
        main(["inspect", "mixers", "--words", "dwconv3,atention"])
    assert "Did you mean 'attention'" in capsys.readouterr().err


def test_the_table_has_a_line_a_word() -> None:
    lines = mixers_table(measured(["identity", "axial"], NOISE, steps=0)).splitlines()
    assert lines[1].split() == ["identity", "static", "some", "tokens", "0", "0.00", "216", "216", "0", "0.0"]
    assert "N^1.5" in lines[2] and GROUPS["all"] in lines[2] and len(lines) == 4


def test_the_page_has_every_word_with_its_law_and_cost() -> None:
    """A new word is noticed, and so is another cost: `python -m tools.pictures mixers` writes the page anew."""
    rows = re.findall(
        r"^\| `([^`]+)` \| (.*?) \| \d* \| [\d of]+ \| (.*?) \| (.*?) \|$", PAGE.read_text(), re.MULTILINE
    )
    assert sorted(word for word, *_ in rows) == sorted(_of_affinities()[1])
    for word, told, law, cost in rows:
        affinity = build_affinity(word, Site(channels=CHANNELS, grid=(12, 18)))
        assert told.removesuffix("; one grid") == what(word) and told.endswith("; one grid") == (
            affinity.grid is not None
        )
        plain = law.replace("²", "^2").replace("<sup>", "^").replace("</sup>", "").replace("adds only", "0")
        assert plain == cost_law(affinity), word
        count = affinity.multiply_adds((56, 56))
        assert cost == (f"{count / 1e6:,.1f} M" if count else ""), word


def test_the_page_tells_words_by_family() -> None:
    text = page(measured(["linear", "identity"], NOISE, steps=0), 0)
    titles = re.findall("^## (.*)$", text, re.MULTILINE)
    assert titles == ["A follows the image, from all tokens through few", "One A for all images, from some tokens"]
