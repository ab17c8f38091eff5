"""The paper's tables beside ours: pairs are called different where they are, commands make the arms of their tables."""

import json
import math
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from contagg.benchmark.cost import multiply_adds
from contagg.cli import main as contagg
from contagg.errors import UserError
from contagg.lab.arms import Arms, read_arms
from contagg.lab.rows import RunsFile
from contagg.models import create
from tools.comparisons import TWINS, Entry, Found, Order, Twin, find, order, passing, read_twins
from tools.twins import main, picture, section

ROOT = Path(__file__).parents[2]


def a_twin(*papers: float | None, curves: bool = False) -> Twin:
    rows = [Entry(f"paper's {place}", f"arm {place}", paper) for place, paper in enumerate(papers)]
    says = "" if set(papers) == {None} else "ImageNet"
    return Twin("toy", "Table 0", "toy", "accuracy", "here", "contagg compare", rows, says, curves)


def found(folder: Path, twin: Twin, *means: float, seeds: int = 3, noise: float = 0.001) -> Found:
    """Arms of these accuracies, each with 2 epochs, and noise that seeds share in part."""
    generator = np.random.default_rng(3)
    rows = [
        {
            "arm": f"arm {place}",
            "seed": seed,
            "changes": {},
            "data": "toy",
            "metrics": {"epoch": [1, 2], "accuracy": [mean / 2, mean + noise * generator.standard_normal()]},
        }
        for place, mean in enumerate(means)
        for seed in range(seeds)
    ]
    (folder / "toy").mkdir(exist_ok=True)
    write(folder, rows)
    return find(twin, folder)


def write(folder: Path, rows: list[dict[str, Any]]) -> None:
    content = {"format": 1, "recipe": {}, "data": {}, "costs": {}, "rows": rows}
    (folder / "toy/runs.json").write_text(json.dumps(content))


def test_the_order_is_the_papers_the_other_one_or_not_known(tmp_path: Path) -> None:
    assert order(found(tmp_path, a_twin(80, 70, 60), 0.8, 0.7, 0.6)) == Order(3, 0, 0)
    assert order(found(tmp_path, a_twin(80, 70, 60), 0.6, 0.7, 0.8)) == Order(0, 3, 0)
    assert order(found(tmp_path, a_twin(80, 70, 60), 0.9, 0.5, 0.5, noise=0.02)) == Order(2, 0, 1)
    assert order(found(tmp_path, a_twin(80, 70, 70), 0.8, 0.7, 0.6)) == Order(2, 0, 0), "the paper orders two pairs"
    assert order(found(tmp_path, a_twin(80, 70), 0.5, 0.5, noise=0.02)) == Order(0, 0, 1)
    assert order(found(tmp_path, a_twin(80, 70), 0.9, 0.5, seeds=1)) is None
    assert str(Order(0, 1, 0)) == "The paper's order is the other way round here."


def test_a_table(tmp_path: Path) -> None:
    text = section(found(tmp_path, a_twin(39.3, 61.8, 50), 0.4, 0.6, noise=1e-5))
    assert "| paper's 0 | 39.3 | 40.0 (" in text and "| paper's 1 | 61.8 | 60.0 (" in text and "+20.0 (" in text
    assert "| paper's 2 | 50.0 | no run yet | 0 |" in text and "The paper's order holds here." in text
    assert "Not run yet." in section(Found(a_twin(1, 2), {}))


def test_a_table_that_the_paper_does_not_have(tmp_path: Path) -> None:
    beyond = a_twin(None, None, None)
    text = section(found(tmp_path, beyond, 0.4, 0.6, 0.4, noise=0.002))
    assert "Not in the paper. Here: here." in text and "| network | here | seeds | from paper's 0 |" in text
    assert "By more than the noise paper's 1 differs from paper's 0, the others do not." in text
    assert "None differs from paper's 0" in section(found(tmp_path, beyond, 0.4, 0.4, 0.4, noise=0.02))
    assert "One seed of each" in section(found(tmp_path, beyond, 0.4, 0.6, seeds=1))
    assert "The others have not been run yet." in section(found(tmp_path, beyond, 0.4))
    alone = section(found(tmp_path, a_twin(None), 0.4))
    assert "no comparison, to be read beside what others report." in alone and "| from" not in alone
    assert order(found(tmp_path, a_twin(80, 70, None), 0.8, 0.7, 0.1)) == Order(1, 0, 0), "two that the paper has"


def test_why_nothing_is_said_of_differences(tmp_path: Path) -> None:
    assert "One seed of each says nothing" in section(found(tmp_path, a_twin(80, 70), 0.5, 0.5, seeds=1))
    of = found(tmp_path, a_twin(80, 70), 0.5, 0.6)
    unpaired = Found(
        of.twin, {"arm 0": {0: of.curves["arm 0"][0]}, "arm 1": {1: of.curves["arm 1"][1]} | of.curves["arm 1"]}
    )
    assert order(unpaired) is None and "No two seeds have been run of all of them" in section(unpaired)
    assert "The others have not been run yet." in section(Found(of.twin, {"arm 1": of.curves["arm 1"]}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": "other"}, "'arm 1' with seed 2 is of other data than that of 'arm 0' with seed 0"),
        ({"changes": {"model.name": "other"}}, "'arm 1' with seed 2 has other keys than that with seed 0"),
        ({"metrics": {"epoch": [1], "accuracy": [0.5]}}, "ends at epoch 1, others at 2"),
        ({"metrics": {"epoch": [1, 2], "accuracy": [0.5, None]}}, "has no accuracy at its last epoch, 2"),
        ({"metrics": {"epoch": [1, 2], "accuracy": [0.5, math.nan]}}, "has no accuracy at its last epoch, 2"),
        ({"metrics": {"epoch": [1, 2], "accuracy": [0.5, "0.6"]}}, "'metrics' of row 6 is missing, or of another kind"),
    ],
)
def test_rows_that_cannot_stand_in_one_table_are_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    found(tmp_path, a_twin(1, 2), 0.5, 0.6)
    rows = json.loads((tmp_path / "toy/runs.json").read_text())["rows"]
    write(tmp_path, [*rows[:-1], rows[-1] | change])
    with pytest.raises(UserError, match=re.escape(said)):
        find(a_twin(1, 2), tmp_path)
    write(tmp_path, [*rows, rows[-1] | {"metrics": {"epoch": [1, 2], "accuracy": [0.0, 0.0]}}])
    assert find(a_twin(1, 2), tmp_path).last("arm 1")[2] > 50, "of two the first, as contagg compare"


def test_a_file_that_is_none_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "laboratory").mkdir()
    (tmp_path / "laboratory/runs.json").write_text("{")
    with pytest.raises(SystemExit):
        main(["--results", str(tmp_path), "--docs", str(tmp_path)])
    assert "runs.json is no file of contagg compare" in capsys.readouterr().err


def test_one_noise_for_all_arms_makes_intervals_of_means_and_differences(tmp_path: Path) -> None:
    of = found(tmp_path, a_twin(1, 2, 3), 0.3, 0.5, 0.8, noise=0.01)
    noise, difference = of.noise, of.difference(of.entries[1])
    assert noise is not None and of.common_seeds == [0, 1, 2]
    reach = difference.high - difference.mean
    assert reach == pytest.approx(2.776445 * noise.deviation * (2 / 3) ** 0.5), "Student's t of 4 degrees of freedom"
    assert f"({difference.low:+.1f} to {difference.high:+.1f})" in section(of)


def test_epochs_to_another_ones_best(tmp_path: Path) -> None:
    of = found(tmp_path, a_twin(1, 2, 3, curves=True), 0.3, 0.8, 0.2, noise=0).curves
    assert passing(of["arm 1"], of["arm 0"]) == "1.0" and passing(of["arm 2"], of["arm 0"]) == "never"


def test_a_picture_of_curves_has_a_tick_for_what_was_measured_and_a_line_for_what_others_report(tmp_path: Path) -> None:
    twin = replace(a_twin(None, None, curves=True), others={"theirs": 91.6})
    axes = picture(found(tmp_path, twin, 0.3, 0.8)).axes[0]
    assert axes.get_xticks().tolist() == [1, 2]
    (theirs,) = (line for line in axes.lines if line.get_label() == "theirs")
    assert set(theirs.get_ydata()) == {91.6}


@pytest.mark.parametrize("twin", read_twins(), ids=lambda twin: twin.name)
def test_each_command_makes_the_arms_of_its_table(twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("contagg.lab.arms.check_references", lambda _: None)  # the photographs are not here
    program, command, *words = shlex.split(twin.command)
    assert (program, command) == ("contagg", "compare") and f"results/{twin.folder}" in words
    asked: list[Arms] = []
    monkeypatch.setattr("contagg.lab.arms.run", lambda options: asked.append(read_arms(options.recipe, options.arms)))
    contagg(["compare", *words])
    assert sorted(asked[0].names) == sorted(entry.arm for entry in twin.rows)
    found = RunsFile(ROOT / "results" / twin.folder, asked[0].recipe).of_arms(asked[0].arms, {}, {})
    assert len(found) == sum(map(len, find(twin, ROOT / "results").curves.values())), "rows are of this very command"


def test_the_deit_costs_more_as_the_page_says() -> None:
    figure1 = next(twin for twin in read_twins() if twin.name == "figure1")
    words = shlex.split(figure1.command)
    name, options = (words[words.index("DeiT") + place].partition("=")[2] for place in (1, 2))
    deit = create(name, img_size=64, num_classes=10, **yaml.safe_load(options))
    light = create("container_light_tiny", img_size=64, num_classes=10)
    ratio = multiply_adds(deit, (64, 64), 3) / multiply_adds(light, (64, 64), 3)
    assert f"the DeiT of {ratio:.1f} times CONTAINER-LIGHT's multiply-adds" in figure1.here


def test_the_page_is_of_the_rows_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    main(["--docs", str(tmp_path)])
    page = (ROOT / "docs/results.md").read_text()
    assert (tmp_path / "results.md").read_text() == page, "run python -m tools.twins"
    drawn = set(re.findall(r"pictures/(twin_\w+\.png)", page))
    assert drawn == {path.name for path in (tmp_path / "pictures").iterdir()}
    assert all((ROOT / "docs/pictures" / name).is_file() for name in drawn) and TWINS.is_file()


def test_numbers_in_the_readme_are_those_of_the_page() -> None:
    sections = {slug(part.split("\n")[0]): part for part in (ROOT / "docs/results.md").read_text().split("\n## ")[1:]}
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if "](docs/results.md#" in line]
    assert len(rows) > 5
    for row in rows:
        _, _, where, result, *_ = row.split("|")
        parts = "".join(sections[anchor] for anchor in re.findall(r"docs/results\.md#([\w-]+)", where))
        missing = [number for number in re.findall(r"[-+]?\d+\.\d", result) if number not in parts]
        assert not missing, f"{row}: {missing}"


def test_accuracies_beside_seconds_are_those_of_the_page() -> None:
    (part,) = re.findall(
        r"## Beyond: CONTAINER for large images\n(.*?)```", (ROOT / "docs/results.md").read_text(), re.DOTALL
    )
    cells = re.findall(r"MB \| (\d+\.\d \([^)]+\)) \|", (ROOT / "docs/speed.md").read_text())
    assert len(cells) == 6 and all(f"| {cell} |" in part for cell in cells)


def slug(title: str) -> str:
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
