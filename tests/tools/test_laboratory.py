"""What is said of all mixers under one recipe, from rows with a known answer."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import t as student

from contagg.errors import UserError
from tools.laboratory import Comparison, groups, main, page, typical

ROOT = Path(__file__).parents[2]
ACCURACY = {
    "dwconv5": 60.0, "dwconv3": 59.0, "pool3": 58.0, "random": 55.0, "dynamic3": 57.0, "attention": 50.0,
    "attention + dwconv5": 61.0, "identity": 40.0, "full-conv3": 62.0, "dwconv5, dwconv5, dwconv5, attention": 30.0,
}  # fmt: skip
DEVIATION, FREEDOM = 0.8, 18


def write(folder: Path, costs: bool = True) -> Path:
    rows = [
        {"arm": arm, "seed": seed, "metrics": {"epoch": [1, 2], "accuracy": [0.1, (mean + seed) / 100]}}
        for arm, mean in ACCURACY.items()
        for seed in (0, 2)
    ]
    lines = [
        {
            "arm": arm,
            "mean": (mean + 1) / 100,
            "difference": (mean - 60) / 100 if number else None,
            "verdict": "" if number == 0 else "likely" if mean < 50 else "noise",
            "parameters": 1_000_000,
            "multiply_adds": 2_000_000,
            "inference_ms": 3.2,
            "train_ms": 7.9,
        }
        for number, (arm, mean) in enumerate(ACCURACY.items())
    ]
    report = {
        "metric": "accuracy",
        "pooled": {"deviation": DEVIATION / 100, "freedom": FREEDOM},
        "costs": {"device": "Toy", "batch": 5} if costs else {},
        "reported_with": {"command": "contagg compare -c toy"},
        "arms": lines,
    }
    Image.new("RGB", (50, 30), "white").save(folder / "compare.png")
    (folder / "compare.json").write_text(json.dumps(report))
    (folder / "runs.json").write_text(json.dumps({"rows": [*rows, {"arm": "another", "seed": 0, "metrics": {}}]}))
    return folder


def test_kinds_of_a(tmp_path: Path) -> None:
    kinds = groups(Comparison.read(write(tmp_path)).scores)
    assert [sorted(arms) for arms in kinds.values()] == [
        ["dwconv3", "dwconv5", "pool3"],
        ["random"],
        ["dynamic3"],
        ["attention"],
    ]
    assert typical(kinds["one A for all images, near tokens"]) == pytest.approx({0: 59, 2: 61})


def test_the_noise_is_students_for_all_arms_at_once(tmp_path: Path) -> None:
    found = Comparison.read(write(tmp_path))
    samples = student.rvs(FREEDOM, size=200_000, random_state=np.random.default_rng(1)) * DEVIATION
    assert np.mean(np.abs(samples) < found.apart(1)) == pytest.approx(0.95, abs=0.003)
    assert np.mean(np.abs(samples) > found.least) == pytest.approx(0.05 / 9, abs=0.001), (
        "two seeds of each: sqrt(2 / 2)"
    )


@pytest.mark.parametrize("costs", [True, False])
def test_the_page(tmp_path: Path, costs: bool) -> None:
    (tmp_path / "docs/pictures").mkdir(parents=True)
    main(["--results", str(write(tmp_path, costs)), "--docs", str(tmp_path / "docs")])
    text = (tmp_path / "docs/laboratory-results.md").read_text()
    assert "10 arms" in text and "2 seeds each" in text
    assert "differ from `dwconv5`, by one noise for all arms" in text
    assert "`identity` (-20.0), `dwconv5, dwconv5, dwconv5, attention` (-30.0)." in text
    assert "| one A for all images, all tokens | 1 | 56.0 | -4.0 |" in text
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert rows[0].startswith("| `full-conv3` | 63.0 | +2.0 | noise | 1.00 | 2.0 |") and len(rows) == len(ACCURACY)
    assert rows[0].endswith("| 3 | 8 |") == costs
    assert (tmp_path / "docs/pictures/laboratory.png").stat().st_size > 10_000


def test_without_a_report_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"compare.json.*--report first"):
        Comparison.read(tmp_path)
    assert "no device" not in page(Comparison.read(write(tmp_path)))


def test_the_page_is_of_the_rows_that_are_there() -> None:
    found = Comparison.read(ROOT / "results/laboratory")
    assert (ROOT / "docs/laboratory-results.md").read_text() == page(found), "run python -m tools.laboratory"
    ends = {arm: [100 * own[seed] for seed in sorted(own)] for arm, own in last_epochs().items()}
    assert all(
        list(dict(sorted(own.items())).values()) == pytest.approx(ends[arm]) for arm, own in found.scores.items()
    )
    assert all(100 * line["mean"] == pytest.approx(np.mean(ends[line["arm"]])) for line in found.arms), "a new report"


def last_epochs() -> dict[str, dict[int, float]]:
    ends: dict[str, dict[int, float]] = {}
    for row in json.loads((ROOT / "results/laboratory/runs.json").read_text())["rows"]:
        ends.setdefault(row["arm"], {})[row["seed"]] = row["metrics"]["accuracy"][-1]
    return ends
