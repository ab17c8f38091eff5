"""Curves of one run and of several, from their metrics."""

from pathlib import Path

import pytest
from PIL import Image

from contagg.cli import main
from contagg.errors import UserError
from contagg.training.curves import compare_figure, draw_run, run_figure
from contagg.training.rows import read_metrics

METRICS = """epoch,step,learning_rate,train_loss,validation_loss,accuracy
1,7,1e-06,2.5,2.25,0.125
2,14,0.001,1.5,,
3,21,0.0005,1.25,1.75,0.875
"""


def a_run(folder: Path, metrics: str = METRICS) -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(metrics)
    return folder


def test_columns_and_gaps(tmp_path: Path) -> None:
    columns = read_metrics(a_run(tmp_path / "run"))
    assert columns["accuracy"] == [(1, 0.125), (3, 0.875)]
    assert columns["train_loss"] == [(1, 2.5), (2, 1.5), (3, 1.25)]
    assert "step" not in columns


def test_a_panel_a_kind(tmp_path: Path) -> None:
    figure = run_figure(read_metrics(a_run(tmp_path / "run")), "run")
    panels = {axes.get_ylabel(): axes for axes in figure.axes}
    assert list(panels) == ["accuracy (%)", "loss", "learning rate"]
    assert [line.get_label() for line in panels["loss"].lines] == ["train loss", "validation loss"]
    assert panels["accuracy (%)"].lines[0].get_ydata().tolist() == [12.5, 87.5]
    assert panels["accuracy (%)"].get_title() == "best 87.50 % at epoch 3"
    assert Image.open(draw_run(tmp_path / "run")).size[0] > 1000


def test_an_average_and_what_it_is_of_share_a_panel(tmp_path: Path) -> None:
    metrics = "epoch,step,train_loss,validation_loss,validation_loss_raw\n1,7,2.5,2.25,2.0\n"
    (axes,) = run_figure(read_metrics(a_run(tmp_path / "run", metrics)), "run").axes
    assert [line.get_label() for line in axes.lines] == ["train loss", "validation loss", "validation loss raw"]


def test_runs_compared_best_first() -> None:
    figure = compare_figure({"one": [(1, 0.25), (2, 0.5)], "two": [(1, 0.125), (2, 0.625)]}, "accuracy")
    lines = figure.axes[0].lines
    assert [line.get_label() for line in lines] == ["two: 62.5 %", "one: 50.0 %"]
    assert lines[1].get_ydata().tolist() == [25, 50]


def test_the_legend_says_what_its_numbers_are() -> None:
    same = compare_figure({"one": [(1, 0.25), (2, 0.8105)], "two": [(2, 0.5)]}, "accuracy").axes[0].get_legend()
    assert same.get_title().get_text() == "accuracy at epoch 2"
    assert [text.get_text() for text in same.get_texts()] == ["one: 81.1 %", "two: 50.0 %"]  # as in a table
    other = compare_figure({"one": [(7, 2.5)], "two": [(9, 1.25)]}, "train_loss", "step").axes[0].get_legend()
    assert other.get_title().get_text() == "train loss at the last step of each"


def test_against_steps(tmp_path: Path) -> None:
    losses = read_metrics(a_run(tmp_path / "run"), "step")["train_loss"]
    assert losses == [(7, 2.5), (14, 1.5), (21, 1.25)]
    assert compare_figure({"run": losses}, "train_loss", "step").axes[0].get_xlabel() == "step"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(a_run(tmp_path / name / "run")) for name in ("a", "b")]
    picture = tmp_path / "out" / "both.png"
    main(["curves", *runs, "--against", "step", "--output", str(picture)])
    assert capsys.readouterr().out.strip() == str(picture)
    assert min(Image.open(picture).size) > 300


BAD = [
    (["nowhere"], "there is no folder 'nowhere'"),
    (["run", "--metric", "acuracy"], "has no metric 'acuracy'. Did you mean 'accuracy'?"),
    (["run", "--output", "curves.txt"], "must end in one of .png"),
    (["empty"], "holds no epoch yet"),
    (["text"], "is no table of metrics"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    a_run(tmp_path / "run")
    a_run(tmp_path / "empty", "epoch,accuracy\n")
    a_run(tmp_path / "text", "epoch,accuracy\n1,good\n")
    with pytest.raises(SystemExit) as leave:
        main(["curves", *arguments])
    assert leave.value.code == 2
    assert message in capsys.readouterr().err


def test_error_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        draw_run(tmp_path)
