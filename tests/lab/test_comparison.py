"""`contagg compare` as people call it: made, resumed, refused, reported."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from laboratory import compare, fail, rows, written
from safetensors.torch import load_file

from contagg.classification import TASK
from contagg.cli import main
from contagg.lab import comparison
from contagg.lab.arms import read_arms
from contagg.lab.making import Opener, Run, paired_job
from contagg.lab.rows import summary
from contagg.tasks import recipes
from contagg.training.recipe_file import read_recipe

ARMS = ("--affinity", "dwconv3", "identity", "attention/8 + dwconv3")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms of two seeds, and costs."""
    folder = tmp_path_factory.mktemp("made")
    compare(written(folder), folder / "out", *ARMS[:3], "--seeds", "2", "--jobs", "2", "--rounds", "1")
    return folder


def test_rows_say_what_was_made(made: Path) -> None:
    found = rows(made / "out")
    assert set(found) == {(arm, seed) for arm in ("dwconv3", "identity") for seed in (0, 1)}
    row = found["identity", 1]
    assert row["changes"] == {"model.options.affinity": "identity"} and found["dwconv3", 0]["changes"] == {}
    assert row["metrics"]["epoch"] == [1, 2] and len(row["metrics"]["accuracy"]) == 2
    assert row["seconds"] > 0 and row["threads"] == 1 and row["torch"] == torch.__version__ and row["device"]
    assert row["paired_tensors"] == row["tensors"] < found["dwconv3", 1]["tensors"]
    folder = made / "out/runs/identity/seed_1"
    kept = {path.name for path in (folder / "checkpoints").iterdir()}
    assert kept == {"last.safetensors", "best.safetensors"}  # and no training state
    csv = (folder / "metrics.csv").read_text().splitlines()
    assert csv[-1].startswith("2,") and str(row["metrics"]["accuracy"][-1])[:5] in csv[-1]


def test_an_arm_that_changes_nothing_is_what_fit_trains(made: Path, tmp_path: Path) -> None:
    main(["fit", "-c", str(made / "tiny.yaml"), "--run.folder", str(tmp_path / "fit"), "--run.seed", "1"])
    one, other = (
        load_file(folder / "checkpoints/last.safetensors")
        for folder in (tmp_path / "fit", made / "out/runs/dwconv3/seed_1")
    )
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_starts_are_paired(tmp_path: Path) -> None:
    words = ["-c", written(tmp_path)]
    arms = read_arms(
        words, [("affinity", ["attention/8 + dwconv3"]), ("arm", ["wide", "model.options.mlp_ratios=[2,4,4,4]"])]
    )
    reference = Opener(read_recipe([*words, "--run.seed", "5"], recipes()))
    start = dict(reference.job(reference.recipe).task.named_parameters())
    for arm in arms.arms:
        job, (shared, tensors) = paired_job(Run(arm, 5, arms.recipe, tmp_path))
        own = dict(job.task.named_parameters())
        alike = [name for name in own if name in start and own[name].shape == start[name].shape]
        assert len(alike) == shared < tensors == len(own)
        assert all(torch.equal(own[name], start[name]) for name in alike)
        other, _ = paired_job(Run(arm, 6, arms.recipe, tmp_path))
        name = "model.stages.0.embedding.projection.weight"
        assert not torch.equal(dict(other.task.named_parameters())[name], start[name])


def test_made_runs_are_not_made_again(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where their folders are gone, as on another machine; other arms are added."""
    before = rows(made / "out")
    (made / "other").mkdir()
    (made / "other/runs.json").write_bytes((made / "out/runs.json").read_bytes())
    compare(str(made / "tiny.yaml"), made / "other", *ARMS, "--seeds", "2", "--rounds", "0")
    printed = capsys.readouterr().out
    assert "2 of 6 runs to make" in printed and "[2/2] attention/8 + dwconv3, seed 1: accuracy" in printed
    after = rows(made / "other")
    assert len(after) == 6 and all(after[key] == row for key, row in before.items())


def test_the_report(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare(str(made / "tiny.yaml"), made / "out", *ARMS, "--seeds", "2", "--report")
    printed = capsys.readouterr().out
    found = {(arm, seed): row["metrics"]["accuracy"] for (arm, seed), row in rows(made / "out").items()}
    one, other = (sum(found[arm, seed][-1] for seed in (0, 1)) / 2 for arm in ("dwconv3", "identity"))
    best = sum(max(found["identity", seed]) for seed in (0, 1)) / 2
    assert f"{100 * one:.2f} [" in printed and f"{100 * (other - one):+.2f} [" in printed
    assert "no run yet: attention/8 + dwconv3" in printed and "at the last epoch" in printed
    assert re.search(r"within the noise, not told apart from 'dwconv3': identity|real|likely", printed)
    told = json.loads((made / "out/compare.json").read_text())
    assert [arm["arm"] for arm in told["arms"]] == ["dwconv3", "identity"]
    assert told["arms"][1]["best_epoch_mean"] == pytest.approx(best, abs=1e-6)
    assert told["arms"][0]["difference"] is None and told["arms"][1]["p_holm"] > 0
    assert (made / "out/compare.csv").read_text().splitlines()[0].startswith("arm,seeds,mean,low,high,best_epoch_mean")
    assert all((made / "out" / name).stat().st_size > 5000 for name in ("compare.png", "epochs.png"))


def test_a_report_needs_no_data(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As where committed rows are looked at; rows that say no size need them."""
    report = (*ARMS[:3], "--seeds", "2", "--report", "--data.name", "folder", "--data.root", str(tmp_path / "gone"))
    content = json.loads((made / "out/runs.json").read_text())
    content["recipe"]["data.name"] = "folder"
    (tmp_path / "runs.json").write_text(json.dumps(content))
    compare(str(made / "tiny.yaml"), tmp_path, *report)
    printed = capsys.readouterr().out
    assert "within the noise" in printed or "real" in printed
    assert fail(str(made / "tiny.yaml"), tmp_path, *report, "--affinity", "dwcnv5") == "2"
    assert "arm 'dwcnv5': model.options: affinity 'dwcnv5'" in capsys.readouterr().err
    for row in content["rows"]:  # in whichever order two jobs ended
        if row["arm"] == content["rows"][0]["arm"]:
            del row["parameters"]
    (tmp_path / "runs.json").write_text(json.dumps(content))
    assert fail(str(made / "tiny.yaml"), tmp_path, *report) == "2"


def test_arms_may_differ_in_where_their_data_lie(
    made: Path, image_folder: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key that a run may change when it goes on makes no other arm, but other data."""
    one, other = image_folder(("a", "b"), train=5), made / "elsewhere"
    shutil.copytree(one, other)
    next((other / "train/a").glob("*.png")).unlink()
    words = ["-c", str(made / "tiny.yaml"), "--model.channels", "3", "--data.name", "folder", "--data.fraction", "1"]
    words += ["--optimization.batch_size", "8"]
    arms = read_arms([*words, "--data.root", str(one)], [("arm", ["here"]), ("arm", ["there", f"data.root={other}"])])
    opener = Opener(arms.recipe)
    counts = [summary(opener.job(arm.recipe).fingerprint)["splits"]["training"]["counts"] for arm in arms.arms]
    assert counts == [[5, 5], [4, 5]]


def test_costs_are_measured_once(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    costs = json.loads((made / "out/runs.json").read_text())["costs"]
    assert set(costs["arms"]) == {"dwconv3", "identity"} and costs["about"]["batch"] == 20
    assert costs["arms"]["identity"]["train_ms"] > costs["arms"]["identity"]["inference_ms"] > 0
    assert costs["arms"]["dwconv3"]["train_mb"] > costs["arms"]["identity"]["inference_mb"] > 0
    compare(str(made / "tiny.yaml"), made / "out", *ARMS[:3], "--seeds", "2", "--rounds", "1")
    assert "measuring" not in capsys.readouterr().out
    assert json.loads((made / "out/runs.json").read_text())["costs"] == costs


def test_another_metric(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = (str(made / "tiny.yaml"), made / "out", *ARMS[:3], "--seeds", "2", "--report")
    compare(*report, "--metric", "validation_loss")
    assert "validation loss, at the last epoch" in capsys.readouterr().out
    assert fail(*report, "--metric", "validation_los") == "2"
    assert "no metric 'validation_los'. Did you mean 'validation_loss'?" in capsys.readouterr().err


def test_a_metric_that_runs_do_not_have_is_told_at_once(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the rows there are, by what a task says of itself, or by the first epoch that was validated."""
    message = "no metric 'acuracy'. Did you mean 'accuracy'?"
    assert fail(str(made / "tiny.yaml"), made / "out", *ARMS, "--seeds", "2", "--metric", "acuracy") == "2"
    out, err = capsys.readouterr()
    assert message in err and "to make" not in out
    long = ("--optimization.epochs", "1000", "--rounds", "0", "--affinity", "identity", "--seeds", "1")
    assert fail(written(tmp_path), tmp_path / "out", *long, "--metric", "nothing") == "2"
    out, err = capsys.readouterr()
    assert "arm 'identity': the runs have no metric 'nothing'. They have train_loss, validation_loss, accuracy\n" in err
    assert "to make" not in out and not (tmp_path / "out").exists()
    monkeypatch.setattr(comparison, "_check_metric", lambda job, metric: None)  # as of a task that says nothing
    assert fail(written(tmp_path), tmp_path / "out", *long, "--metric", "acuracy") == "2"
    assert message in capsys.readouterr().err and not (tmp_path / "out/runs.json").exists()


def test_seeds_that_were_not_made_yet(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows of other seeds are no reason to report, nor to fail."""
    compare(str(made / "tiny.yaml"), made / "out", *ARMS[:3], "--seeds", "2", "--run.seed", "7", "--dry-run")
    assert "4 runs to make: about" in capsys.readouterr().out


def test_either_what_would_be_or_what_is(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fail(str(made / "tiny.yaml"), made / "out", *ARMS, "--dry-run", "--report") == "2"
    assert "--report: not allowed with argument --dry-run" in capsys.readouterr().err


def test_nothing_is_trained_for_a_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare(written(tmp_path), tmp_path / "out", *ARMS, "--seeds", "3", "--dry-run")
    printed = capsys.readouterr().out
    assert re.search(r"identity +[\d,]+ +[\d,]+ +\d+ s +3  model.options.affinity=identity", printed)
    assert "9 runs to make: about" in printed and not (tmp_path / "out").exists()
    assert fail(written(tmp_path), tmp_path / "out", *ARMS, "--report") == "2"
    assert "holds no run of these arms yet" in capsys.readouterr().err


REFUSED = {
    "holds runs of another recipe: optimization.epochs is 2 there and 3 here. Give another folder with -o": (
        *ARMS, "--optimization.epochs", "3",
    ),
    "the run of 'identity' with seed 0 was made with other keys: model.options.affinity is identity there and absent": (
        "--arm", "identity", "data.fraction=0.04",
    ),
    "arm 'dwconv4': dwconv4: the kernel size must be odd": ("--affinity", "identity", "dwconv4"),
    "affinity 'dconv3': 'dconv3' is not a known affinity. Did you mean 'dwconv3'?": (
        "--affinity", "identity", "dconv3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("line", REFUSED)
def test_refused_before_anything_is_made(line: str, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (made / "out/runs.json").read_bytes()
    assert fail(str(made / "tiny.yaml"), made / "out", *REFUSED[line], "--seeds", "3") == "2"
    printed = capsys.readouterr().err
    assert line in printed and printed.strip().count("\n") == 0, printed
    assert (made / "out/runs.json").read_bytes() == before


def test_other_data_are_refused(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows say what they were made with, whatever the recipe calls it."""
    folder = made / "swapped"
    folder.mkdir()
    content = json.loads((made / "out/runs.json").read_text())
    data = next(iter(content["data"].values()))
    data["splits"]["training"] |= {"counts": [5] * 10, "names": "0" * 32}
    content["data"] = {"0" * 24: data}
    for row in content["rows"]:
        row["data"] = "0" * 24
    (folder / "runs.json").write_text(json.dumps(content))
    assert fail(str(made / "tiny.yaml"), folder, *ARMS) == "2"
    assert "was made with other data: 50 training images there and 60 here" in capsys.readouterr().err


def test_what_an_arm_without_a_run_costs_is_not_asked(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its network may be what failed; the others' times are told."""
    compare(str(made / "tiny.yaml"), made / "out", *ARMS, "--seeds", "2", "--report")
    table = capsys.readouterr().out
    assert "no run yet: attention/8 + dwconv3" in table and "infer ms" in table


def test_a_task_without_a_job_is_refused(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(vars(TASK), "job", "")
    assert fail(str(made / "tiny.yaml"), made / "out", *ARMS) == "2"
    assert "runs of the task 'classification' cannot be compared: its contagg.tasks.Task" in capsys.readouterr().err
