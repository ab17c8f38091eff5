"""What is concluded from rows whose truth is known, and that pictures of many arms can be read."""

import itertools
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from laboratory import written
from matplotlib.text import Text
from scipy.special import stdtrit

from contagg.errors import UserError
from contagg.lab.arms import Arms, read_arms
from contagg.lab.findings import Curve, Findings
from contagg.lab.pictures import by_epoch, score_against_time
from contagg.lab.report import text, write
from contagg.lab.rows import RunsFile, as_text, digest
from contagg.lab.schedule import Pace
from contagg.lab.sizes import Size

NAMES = [
    "first",
    "better",
    "worse",
    "same",
    "a name of some length, and on",
    *(f"arm {number}" for number in range(25)),
]
TRUE = {"first": 0.6, "better": 0.65, "worse": 0.45, "same": 0.6}
SIZES = {name: Size(parameters=1000, multiply_adds=10**6) for name in NAMES}


def findings(
    folder: Path,
    names: list[str],
    seeds: int,
    metric: str | None = None,
    costs: bool = True,
    change: Callable[[list[dict[str, Any]]], object] = lambda rows: None,
) -> Findings:
    """Of runs that waver by 0.3 points, one for each arm and seed; seeds move all arms alike.

    `change` gets the rows, arm by arm within a seed.
    """
    given = [("arm", [name, f"label_smoothing={0.001 * at}"]) for at, name in enumerate(names)]
    arms = read_arms(["-c", written(folder)], given)
    file, rng = RunsFile(folder, arms.recipe), random.Random(0)
    shifts = [rng.gauss(0, 0.02) for _ in range(seeds)]
    content = file.read()
    for seed, arm in itertools.product(range(seeds), arms.arms):
        top = TRUE.get(arm.name, 0.6) + shifts[seed] + rng.gauss(0, 0.003)
        accuracy = [0.5 * top, top + 0.05, top]  # the best epoch is not the last
        metrics = {"epoch": [1, 2, 3], "accuracy": accuracy, "validation_loss": [None, None, 1 - top]}
        row = {"arm": arm.name, "seed": seed, "changes": dict(arm.changes), "data": "0" * 24, "metrics": metrics}
        content["rows"].append(row | {"monitor": "accuracy", "seconds": 60.0})
    change(content["rows"])
    content["costs"] = _costs(arms, rng) if costs else {}
    file.path.write_text(as_text(content))
    return Findings(arms, file, SIZES, metric, range(seeds))


def _costs(arms: Arms, rng: random.Random) -> dict[str, Any]:
    about = {"batch": 64, "device": "a processor", "threads": 1, "precision": "fp32"}
    times = {arm.name: rng.uniform(10, 40) for arm in arms.arms}
    each = {"train_ms": 100.0, "inference_mb": 5.0, "train_mb": 12.0}
    return {
        "about": about,
        "arms": {
            arm.name: {"changes": digest(dict(arm.changes)), "inference_ms": times[arm.name]} | each
            for arm in arms.arms
        },
    }


def test_what_is_real_and_what_is_noise(tmp_path: Path) -> None:
    found = findings(tmp_path, NAMES[:5], seeds=5)
    lines = {line.arm: line for line in found.lines}
    assert [lines[name].verdict for name in NAMES[:4]] == ["", "real", "real", "noise"]
    assert lines["better"].difference == pytest.approx(0.05, abs=0.006)  # the last epoch's, paired by seed
    assert lines["better"].difference_low < 0.05 < lines["better"].difference_high
    alone = lines["better"].high - lines["better"].low
    assert alone > 3 * (lines["better"].difference_high - lines["better"].difference_low)
    assert lines["worse"].best_epoch_mean == pytest.approx(lines["worse"].mean + 0.05)
    assert found.pooled is not None and found.pooled.deviation == pytest.approx(0.003, rel=0.5)
    told = text(found)
    assert "real, shown by the pairs alone: better; worse" in told
    assert "not told apart from 'first': same; a name of some length, and on" in told


def test_an_arm_of_one_seed_takes_no_test_from_the_others(tmp_path: Path) -> None:
    """As when a seed is under way: what there is of it counts."""

    def begin(rows: list[dict[str, Any]]) -> None:
        del rows[25:]  # of the second seed ten arms

    found = findings(tmp_path, NAMES[:15], seeds=2, change=begin)
    assert found.pooled is not None and found.pooled.freedom == 9
    lines = {line.arm: line for line in found.lines}
    assert lines["better"].verdict in ("likely", "real") and lines["worse"].verdict in ("likely", "real")
    assert "one noise for all arms" in text(found) and len(write(found, tmp_path)) == 4


def test_two_seeds_of_many_arms_need_one_noise(tmp_path: Path) -> None:
    """A pair's own two differences hardly ever reach what Holm asks of 29 arms."""
    lines = {line.arm: line for line in findings(tmp_path, NAMES, seeds=2).lines}
    assert lines["better"].verdict in ("likely", "real") and lines["better"].p_pooled_holm < 1e-6
    assert sum(line.verdict == "noise" for line in lines.values()) >= 25


def test_one_seed_and_a_loss(tmp_path: Path) -> None:
    found = findings(tmp_path, NAMES[:3], seeds=1, metric="validation_loss", costs=False)
    told = text(found)
    assert "an arm with one seed has no interval" in told and "infer ms" not in told
    assert found.lines[1].verdict == "" and found.lines[1].difference == pytest.approx(-0.05, abs=0.02)
    assert "%" not in told.splitlines()[0].replace("95%", "")
    assert len(write(found, tmp_path)) == 4


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_an_arm_that_diverged_has_no_mean(bad: float, tmp_path: Path) -> None:
    """And where it is the first one, the others are compared with the next, which is said; files are JSON's."""

    def diverge(rows: list[dict[str, Any]]) -> None:
        rows[0]["metrics"]["validation_loss"] = [None, None, bad]  # first, seed 0
        rows[2]["metrics"]["validation_loss"] = [bad, 2.0, 1.0]  # worse: it came back
        rows[6]["metrics"]["validation_loss"] = [3.0, 2.0, 1.2]

    found = findings(tmp_path, NAMES[:4], seeds=2, metric="validation_loss", change=diverge)
    assert found.diverged == {"first": [0]} and [line.arm for line in found.lines] == ["better", "worse", "same"]
    told = text(found)
    assert "since a run's validation loss at the last epoch is no finite number: first (seed 0)\n" in told
    assert "no finite number at some epoch before the last, which is no best one: worse (seed 0)\n" in told
    assert "the first arm, 'first', is among these: differences are from 'better' instead" in told
    write(found, tmp_path)
    content = (tmp_path / "compare.json").read_text()
    said = json.loads(content, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert said["diverged"] == {"first": [0]} and said["no_finite_number"] == {"first": {"0": [3]}, "worse": {"0": [1]}}


def test_nothing_is_said_where_every_arm_diverged(tmp_path: Path) -> None:
    def diverge(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["metrics"]["accuracy"][-1] = math.nan

    message = (
        r"^accuracy: each arm has a run whose last epoch gives no finite number, so none has a mean: "
        r"first \(seeds 0, 1\); better \(seeds 0, 1\)$"
    )
    with pytest.raises(UserError, match=message):
        findings(tmp_path, NAMES[:2], seeds=2, change=diverge)


def test_cocos_minus_one_is_no_precision(tmp_path: Path) -> None:
    """It says that there was nothing to find, and is averaged with nothing."""

    def find_nothing(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["metrics"]["box_ap/cat"] = [0.1, 0.2, 0.3]
        rows[3]["metrics"]["box_ap/cat"] = [-1.0, -1.0, -1.0]  # better, seed 1

    told = text(findings(tmp_path, NAMES[:2], seeds=2, metric="box_ap/cat", change=find_nothing))
    assert "30.00" in told and "better (seed 1). COCO has no number where validation images hold no such object" in told


def test_arms_without_a_seed_in_common(tmp_path: Path) -> None:
    """As when a comparison was stopped: no difference is told, and each mean is."""

    def drop(rows: list[dict[str, Any]]) -> None:
        del rows[0], rows[2]  # first keeps seed 1, better keeps seed 0

    found = findings(tmp_path, NAMES[:2], seeds=2, change=drop)
    assert [line.seeds for line in found.lines] == [1, 1]
    assert math.isnan(found.lines[1].difference) and not found.lines[1].verdict
    assert len(write(found, tmp_path)) == 4 and "no difference, since no seed is of both arms yet: better" in text(
        found
    )


def test_differences_that_are_all_alike_are_not_called_real(tmp_path: Path) -> None:
    def alike(rows: list[dict[str, Any]]) -> None:
        for at, row in enumerate(rows):
            row["metrics"]["accuracy"][-1] = (340 + at // 2 + 2 * (at % 2)) / 359

    found = findings(tmp_path, NAMES[:2], seeds=2, change=alike)
    assert found.lines[1].difference == pytest.approx(2 / 359) and found.lines[1].verdict == ""
    assert "no test by pairs, since the difference is the same in all seeds" in text(found)


def test_runs_of_an_arm_are_of_the_same_epochs(tmp_path: Path) -> None:
    def cut(rows: list[dict[str, Any]]) -> None:
        rows[0]["metrics"] = {name: values[:1] for name, values in rows[0]["metrics"].items()}

    with pytest.raises(UserError, match="the runs of 'first' with seeds 0 and 1 are not of the same epochs"):
        findings(tmp_path, NAMES[:2], seeds=2, change=cut)


@pytest.mark.parametrize("count", [2, 7, 30])
def test_names_in_pictures_do_not_hide_each_other(count: int, tmp_path: Path) -> None:
    found = findings(tmp_path, NAMES[:count], seeds=3)
    for figure in (score_against_time(found), by_epoch(found)):
        figure.draw_without_rendering()
        axes = figure.axes[0]
        boxes = {t.get_text().replace("\n", " "): Text.get_window_extent(t) for t in axes.texts}
        assert set(boxes) == set(NAMES[:count])
        for (one, box), (other, second) in itertools.combinations(boxes.items(), 2):
            # Boxes are of the tallest letters: a fifth of their height is free.
            width, height = (
                min(box.x1, second.x1) - max(box.x0, second.x0),
                min(box.y1, second.y1) - max(box.y0, second.y0),
            )
            assert width <= 0 or height <= 0.2 * box.height, (one, other)
        assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes.values())


def test_intervals_in_the_picture_are_by_one_noise_for_all_arms(tmp_path: Path) -> None:
    for folder in ("7", "2"):
        (tmp_path / folder).mkdir()
    many, pair = (findings(tmp_path / str(count), NAMES[:count], seeds=2) for count in (7, 2))
    spans = [np.ptp(score_against_time(found).axes[0].lines[0].get_ydata()) for found in (many, pair)]
    assert many.pooled and not pair.pooled
    assert spans[0] == pytest.approx(200 * stdtrit(6, 0.975) * many.pooled.deviation / 2**0.5)
    drawn = [line for line in score_against_time(many).axes[0].lines if len(line.get_xdata()) == 2]
    told = [line for line in many.lines[1:] if line.verdict != "noise"]
    assert 0 < len(told) < 6 and len(drawn) == 1 + len(told), "of what is within the noise it would be the first's"
    own = pair.lines[0]
    assert spans[1] == pytest.approx(100 * (own.high - own.low))


def test_the_pace() -> None:
    assert Pace().of(["a"]) is None
    pace = Pace([("a", 10.0), ("a", 20.0), ("b", 45.0)])
    assert pace.of(["a", "b", "new"]) == 15 + 45 + 30 and pace.of([]) == 0


def test_a_metric_without_a_value_is_not_answered_with_its_own_name() -> None:
    with pytest.raises(
        UserError, match=r"^the run of 'a' with seed 3 has no value of the metric 'accuracy': all its epochs leave it"
    ):
        Curve.of({"arm": "a", "seed": 3, "metrics": {"epoch": [1, 2], "accuracy": [None, None]}}, "accuracy")
    with pytest.raises(UserError, match=r"no metric 'acuracy'\. Did you mean 'accuracy'\?"):
        Curve.of({"metrics": {"epoch": [1, 2], "accuracy": [None, None]}}, "acuracy")
