"""What is said of all placements: costs, effects, rules' agreement, choices, from rows with a known answer."""

import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contagg.errors import UserError
from tools.placement_truth import ROOT, Truth, by_stage, jaccard, opened, stages_of
from tools.placements import learnt_row, main, nested

WORTH = (0.5, 2.0, 1.0, 0.25)
"""Points that each stage adds."""
METRIC = {"classification": "accuracy", "detection": "box_ap"}
OPEN, CLOSED = "attention gated + identity", "identity"


def arm(stages: tuple[bool, ...]) -> dict[str, object]:
    return {
        "arm": "any",
        "data": "",
        "changes": {"model.options.affinity": [OPEN if is_open else CLOSED for is_open in stages]},
    }


def write_runs(path: Path, rows: list[dict[str, Any]], costs: dict[str, Any]) -> None:
    path.write_text(json.dumps({"format": 1, "recipe": {}, "data": {}, "costs": costs, "rows": rows}))


def write_truth(folder: Path, noise: float = 0.0, seeds: int = 3) -> Path:
    generator = np.random.default_rng(5)
    rows = [
        {
            **arm(stages),
            "seed": seed,
            "metrics": {"epoch": [1, 2], "accuracy": [0.1, (50 + seed + gain + noise * generator.normal()) / 100]},
        }
        for seed in range(seeds)
        for stages in product((False, True), repeat=4)
        for gain in [sum(worth for worth, is_open in zip(WORTH, stages, strict=True) if is_open)]
    ]
    path = folder / "truth/runs.json"
    path.parent.mkdir(parents=True)
    timed = {"changes": "", "inference_ms": 12.34, "train_ms": 43.21, "inference_mb": 1.0, "train_mb": 2.0}
    about = {"device": "toy", "threads": 1, "batch": 8, "precision": "fp32"}
    write_runs(path, rows, {"about": about, "arms": {"any": timed}})
    return path


def write_run(
    folder: Path, chosen: list[str], scores: tuple[float, ...] = WORTH, seed: int = 0, task: str = "classification"
) -> Path:
    folder.mkdir(parents=True)
    (folder / "placement.json").write_text(json.dumps({"budget": {"value": 0.97, "unit": "share"}, "chosen": chosen}))
    rows = [f"{stage}.1,{score}" for stage, score in enumerate(scores, 1)]
    (folder / "placement.csv").write_text("\n".join(["place,score", *rows]))
    (folder / "metrics.csv").write_text(f"epoch,{METRIC[task]}\n1,0.2\n2,0.6\n")
    (folder / "recipe.yaml").write_text(f"task: {task}\nrun:\n  seed: {seed}\n")
    return folder


def test_a_budget_that_is_no_share_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [])
    (run / "placement.json").write_text(json.dumps({"budget": {"value": 3e9, "unit": "multiply-adds"}, "chosen": []}))
    with pytest.raises(UserError, match="run has a budget in multiply-adds: give runs of a share of all open"):
        learnt_row(run)


def test_arms_are_read() -> None:
    assert opened(arm((True, False, False, True))) == (True, False, False, True)
    assert opened({"changes": {"model.options.affinity": CLOSED}}) == (False,) * 4
    assert opened({"changes": {}}) == (True,) * 4, "as the recipe has it"
    assert stages_of(["1.1", "4.2"]) == (True, False, False, True)


def test_effects_and_costs(tmp_path: Path) -> None:
    truth = Truth.read(write_truth(tmp_path))
    assert len(truth.accuracies) == 16 and truth.seeds == [0, 1, 2]
    for stage, worth in enumerate(WORTH):
        assert truth.effect(stage).mean == pytest.approx(worth)
    none, last = (False,) * 4, (False, False, False, True)
    added = truth.costs[last] - truth.costs[none]
    # 4 tokens of 128 channels: queries, keys and gate, and A of 2 products; values and output stand in both.
    assert added >= 4 * 2 * 128**2 + 2 * 4 * 4 * 128
    assert truth.costs[(True,) * 4] - truth.costs[(True, True, True, False)] == added, "costs add up"
    assert truth.within(truth.costs[last])[0] == none and (True,) * 4 not in truth.within(truth.costs[last])


def test_a_rule_that_knows_the_worth_agrees_and_its_opposite_does_not(tmp_path: Path) -> None:
    truth = Truth.read(write_truth(tmp_path))
    assert truth.agreement(WORTH) == pytest.approx(1)
    assert truth.agreement([-worth for worth in WORTH]) == pytest.approx(-1)
    assert abs(truth.agreement([1.0, -3.0, 3.0, 0.2])) < 0.6


def test_choices_that_are_alike() -> None:
    first, second = (True, False, False, True), (False, False, False, True)
    assert jaccard([first, first]) == 1 and jaccard([first, second]) == 0.5 and jaccard([(False,) * 4] * 2) == 1
    assert jaccard([first]) == 1


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs/pictures").mkdir(parents=True)
    places = ["--results", str(tmp_path), "--docs", str(tmp_path / "docs")]
    main(places)
    assert "Not run yet" in (tmp_path / "docs/placement-results.md").read_text()
    write_truth(tmp_path, noise=0.1)
    runs = [write_run(tmp_path / f"run{seed}", ["2.1"], seed=seed) for seed in range(3)]
    rivals = [{"seed": 0, "affinity": OPEN, "scores": {"entropy": {f"{s}.1": w for s, w in enumerate(WORTH, 1)}}}]
    (tmp_path / "rivals.json").write_text(json.dumps(rivals))
    main([*places, "--add", *map(str, runs)])
    page = (tmp_path / "docs/placement-results.md").read_text()
    assert re.search(r"^\| none \| 9.01 \| 12.3, 43.2 \| 5", page, re.M)
    assert "## All 16 placements, 3 seeds" in page and "| learnt gates | +" in page
    assert re.search(r"^\| 2 \| \+(1\.9|2\.0)", page, re.M) and re.search(r"^\| entropy \| \+(0\.9|1)", page, re.M)
    assert re.search(r"^\| 0.97 \| learnt \| 2; 2; 2 \| 1.00 \| 5[23]\.\d\d \| .* \| \+(1\.[67]|1\.8)", page, re.M), (
        "2.0 less LIGHT's 0.25"
    )
    assert "| greedy |" not in page and re.search(
        r"^\| 0.97 \| by hand \| 4 \|  \| 5\d\.\d\d \| \d+% .*\|  \|$", page, re.M
    )
    assert re.search(r"^\| 0.97 \| the best \| 2 3 4", page, re.M) and "| the last two | 3 4 |" in page
    assert (tmp_path / "docs/pictures/placement_truth.png").is_file()
    main([*places, "--add", str(runs[0])])
    assert len(json.loads((tmp_path / "learnt.json").read_text())) == 3, "a run that is there is not added twice"


def test_a_network_closed_after_the_fact_is_a_row_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "docs/pictures").mkdir(parents=True)
    write_truth(tmp_path)
    runs = [write_run(tmp_path / f"run{seed}", ["2.1"], seed=seed) for seed in range(2)]
    (runs[1] / "metrics.csv").unlink()
    main(["--results", str(tmp_path), "--docs", str(tmp_path / "docs"), "--add", *map(str, runs)])
    page = (tmp_path / "docs/placement-results.md").read_text()
    assert (
        "| 0.97 | learnt | 2 |" in page
        and "| 0.97 | greedy | 2 |" in page
        and re.search(r"learnt gates .*\| 1 \|", page)
    )


def test_what_smaller_budgets_open_is_open_under_larger_ones() -> None:
    rows = [
        {"rule": rule, "seed": seed, "budget": budget, "chosen": chosen}
        for rule, seed, budget, chosen in (
            ("learnt", 0, 0.6, ["3.1"]), ("learnt", 0, 0.9, ["2.1", "3.1"]),
            ("learnt", 1, 0.6, ["4.1"]), ("learnt", 1, 0.9, ["2.1", "3.1"]), ("greedy", 0, 0.9, []),
        )
    ]  # fmt: skip
    assert nested(rows).endswith("in 1 of 2 pairs of runs.")


def test_what_the_search_costs(tmp_path: Path) -> None:
    (tmp_path / "docs/pictures").mkdir(parents=True)
    write_truth(tmp_path)
    runs = [str(write_run(tmp_path / f"run{seed}", ["2.1"], seed=seed)) for seed in range(2)]
    rows = [
        {"seed": seed, "budget": "0.97", "fit": 200.0, "place": 220.0 + 11 * seed, "chosen": 110.0} for seed in range(2)
    ]
    rows += [{"seed": 2, "budget": "0.97", "fit": 200.0, "place": 225.5}]
    (tmp_path / "price.json").write_text(json.dumps(rows))
    main(["--results", str(tmp_path), "--docs", str(tmp_path / "docs"), "--add", *runs])
    page = (tmp_path / "docs/placement-results.md").read_text()
    assert re.search(r"with all open \| 1\.13 \(.* \| 3 \|", page), "220 / 200, 231 / 200 and between"
    assert re.search(r"from the start \| 2\.05 \(.* \| 2 \|", page), "over 110, of two runs that have it"


def test_a_detector(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "nuclei").mkdir()
    scores = (({"model.options.affinity": CLOSED}, (0.20, 0.21)), ({}, (0.23, 0.25)))
    rows = [
        {"arm": "", "data": "", "changes": changes, "seed": seed, "metrics": {"epoch": [1], "box_ap": [score]}}
        for changes, some in scores
        for seed, score in enumerate(some)
    ]
    write_runs(tmp_path / "nuclei/runs.json", rows, {})
    runs = [str(write_run(tmp_path / f"run{seed}", ["2.1"], seed=seed, task="detection")) for seed in range(2)]
    main(["--results", str(tmp_path), "--docs", str(tmp_path / "docs"), "--add", *runs])
    page = (tmp_path / "docs/placement-results.md").read_text()
    assert "| 20.50 (" in page and "| +3.50 (" in page and "by seed: 2; 2 (Jaccard 1.00)" in page
    assert "## What is learnt" not in page, "runs of another task are not set against this one's placements"


def test_the_page_is_of_the_rows_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    main(["--docs", str(tmp_path)])
    page = (ROOT / "docs/placement-results.md").read_text()
    assert (tmp_path / "placement-results.md").read_text() == page, "run python -m tools.placements"


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished run of contagg place"):
        learnt_row(tmp_path)
    run = write_run(tmp_path / "run", ["4.1"])
    assert learnt_row(run)["rule"] == "learnt" and by_stage(learnt_row(run)["scores"]) == list(WORTH)
