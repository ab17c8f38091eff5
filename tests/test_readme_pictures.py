"""The pictures of README.md and of the pages: each is there, small and opaque, and made by the one command."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import tools.pictures as pictures
from contagg.errors import UserError
from contagg.figures import new_figure
from tools.idea import GRID, SCALE, Denoiser, Learnt, cat, crops, figure_of, mixers

DOCS = pictures.ROOT / "docs"
PAGES = (pictures.ROOT / "README.md", *sorted(DOCS.glob("*.md")))


def linked(page: Path) -> set[Path]:
    links = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text())
    return {(page.parent / link).resolve() for link in links if "://" not in link}


def test_pages_show_what_is_there_and_all_that_is_there_is_shown() -> None:
    shown = set().union(*map(linked, PAGES))
    assert {path for path in shown if not path.is_file()} == set()
    assert set(pictures.FOLDER.iterdir()) <= shown
    assert linked(PAGES[0]), "the README shows nothing"


@pytest.mark.parametrize("path", sorted(pictures.FOLDER.glob("*.png")), ids=lambda path: path.name)
def test_pictures_are_small_and_opaque(path: Path) -> None:
    assert path.stat().st_size <= pictures.MOST_BYTES
    with Image.open(path) as image:
        assert not image.has_transparency_data and image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
        assert image.width >= 800


def test_numbers_in_the_picture_are_the_readme_s() -> None:
    found = pictures.parts_run()
    labels = [text.get_text() for text in pictures.fractions_figure(found).axes[0].texts]
    numbers = [label.removesuffix(" %") for label in labels if label.endswith(" %")]
    assert len(numbers) == 2 * len(found) > 2
    alt = re.search(r"!\[([^\]]*)\]\(docs/pictures/fractions.png", PAGES[0].read_text())
    assert alt and re.findall(r"\d\d\.\d", alt[1]) == numbers


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures.main(["fractions", "speed", "--folder", str(tmp_path / "new")])
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["fractions.png", "speed.png"]
    for wrong, message in (
        (["fraction"], "no picture 'fraction'"),
        (["digits", "--run", "none"], "none is no finished"),
    ):
        with pytest.raises(SystemExit):
            pictures.main([*wrong, "--folder", str(tmp_path)])
        assert message in capsys.readouterr().err


def test_a_picture_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MOST_BYTES", 100)
    with pytest.raises(UserError, match="more than the 100 that a page should load"):
        pictures.publish(tmp_path / "a.png", new_figure(3, 2, "a title"))


def test_the_idea_s_mixers_take_noise_away_by_a_alone() -> None:
    """Untrained and for a few photographs: shapes, that A is what mixes, and that panels show its marked row."""
    batch = next(crops(0))
    assert batch.shape[1:] == (GRID[0] * GRID[1], 3) and batch.min() >= 0 and batch.max() <= 1
    found = []
    for name, (what, affinity) in mixers().items():
        model = Denoiser(affinity)
        a = affinity.matrix(model.embedding(batch[:1]), GRID)[0, 0]
        torch.testing.assert_close(model(batch[:1])[0], a @ batch[0], atol=1e-5, rtol=1e-4)
        found.append(Learnt(name=name, what=what, a=a.detach(), left=0.305))
    figure = figure_of(cat(), found)
    panels = figure.axes[:10]
    assert [axes.get_title() for axes in panels[1:5]] == list(mixers())
    assert [axes.get_xlabel() for axes in panels[6:]] == ["31 % of the noise left"] * 4
    assert all(len(axes.images) == 2 for axes in panels[6:]) and SCALE.get_clim() == (-16, 16)
