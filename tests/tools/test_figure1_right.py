"""Figure 1 right: a matrix that was made local is found to be so, layer by layer, against the network's own start."""

import json
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import contagg
from contagg.affinity.token_mlp import TokenMLP
from contagg.errors import UserError
from contagg.lab.arms import Arm
from tools import figure1_right, twins
from tools.comparisons import read_twins
from tools.figure1_right import evenly_within3, learnt_row, main, of_layers, picture, section

SIZES = {"patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3}
OPTIONS = {"affinity": "attention + token mlp", "gate": "sum", **SIZES}
SIDE = 5
"""Of the grid; prime, and odd, so that no token of AT is in its middle."""


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return contagg.create("vit_tiny_mixer", img_size=8 * SIDE, **OPTIONS)


def local(seed: int) -> nn.Module:
    """The start, but for the first layer, where each token gathers from the one on its right alone."""
    model = network(seed)
    dense = next(module for module in model.modules() if isinstance(module, TokenMLP))
    weight = next(dense.parameters())
    places = torch.arange(SIDE * SIDE) + dense.prefix
    with torch.no_grad():
        weight.zero_()
        weight[..., places[:-1], places[1:]] = 1.0
    return model


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Of three seeds."""
    for seed in (0, 1, 2):
        (tmp_path / str(seed)).mkdir()
        keys = {
            "task": "classification",
            "model": {"name": "vit_tiny_mixer", "image_size": 8 * SIDE, "options": OPTIONS},
            "data": {"name": "folder", "root": "gone"},
            "optimization": {"epochs": 2, "warmup_epochs": 0},
            "run": {"seed": seed, "folder": "gone"},
        }
        (tmp_path / str(seed) / "recipe.yaml").write_text(yaml.safe_dump(keys))
        (tmp_path / str(seed) / "metrics.csv").write_text("epoch,step,accuracy\n1,1,0.1\n2,2,0.2\n")
    monkeypatch.setattr(figure1_right, "open_model", lambda run: (local(int(Path(run).name)), {}))
    return [tmp_path / str(seed) for seed in (0, 1, 2)]


def test_what_a_layer_has_learnt_is_set_against_its_start(runs: list[Path]) -> None:
    row = learnt_row(runs[1])
    assert row["seed"] == 1 and [len(row["start"]), len(row["learnt"])] == [3, 3]
    assert row["start"][1:] == row["learnt"][1:], "untouched layers are those of the start, of this run's seed"
    # The last token of each line but the last gathers from the next line's first, which is far.
    far, gathers = SIDE - 1, SIDE * SIDE - 1
    assert row["learnt"][0]["within3"] == pytest.approx((gathers - far) / (SIDE * SIDE))
    first = row["rows"]["1"][0]
    line, column = first["at"]
    assert first["values"][line][column + 1] == 1 and sum(map(sum, first["values"])) == 1
    assert set(row["rows"]) == {"1", "3"}


def test_the_page_says_which_layers_are_more_local(runs: list[Path], tmp_path: Path) -> None:
    main([*map(str, runs), "--results", str(tmp_path)])
    main([str(runs[0]), "--results", str(tmp_path)])
    rows = json.loads((tmp_path / figure1_right.STATIC).read_text())
    assert [row["seed"] for row in rows] == [0, 1, 2], "a run that is added twice is one row"
    text = "\n".join(section(tmp_path))
    assert "by more than the noise of seeds: 1 layer (1)." in text and "| 1 | 80.0 | +51.6 (+50.1 to +53.2)" in text
    assert of_layers(rows, "within3", "change")[1].mean == 0 and len(picture(rows).axes) == 9
    assert "Not run yet." in "\n".join(section(tmp_path / "nowhere"))


def test_the_command_names_the_runs_of_pam(tmp_path: Path) -> None:
    pam = next(twin for twin in read_twins() if twin.name == "pam")
    folder = Arm(pam.rows[-1].arm, None, {}, {}).folder
    runs = re.search(r"figure1_right (\S+)", "\n".join(section(tmp_path)))
    assert runs and fnmatch(f"results/{pam.folder}/runs/{folder}/seed_0", runs[1])


def test_even_weights() -> None:
    pairs = [(i, j) for i in range(7) for j in range(7) if abs(i - j) <= 1]
    others = [(i, j) for i in range(3) for j in range(3) if abs(i - j) <= 1]
    assert evenly_within3((7, 3)) == pytest.approx(len(pairs) * len(others) / 21**2)


OF_A_DETECTOR = """
task: detection
model: {detector: detr, backbone: container_light_tiny, norm: train}
data: {root: a}
run: {folder: a}
"""
RECIPES = {
    "task: classification": "model",
    "model: {name: vit_tiny_mixer}": "task",
    OF_A_DETECTOR: "is of the task 'detection': give a run of DeiT + PAM",
    "- a": "holds no recipe",
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_of_others_are_refused_in_one_line(
    recipe: str, tmp_path: Path, runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (runs[0] / "recipe.yaml").write_text(recipe)
    assert RECIPES[recipe] in refused(runs[0], tmp_path, capsys)


def test_an_unfinished_run_is_refused(tmp_path: Path, runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    (runs[0] / "metrics.csv").write_text("epoch,step,accuracy\n1,1,0.1\n")
    assert "0 is at epoch 1 of 2: it is not finished" in refused(runs[0], tmp_path, capsys)
    (runs[0] / "metrics.csv").unlink()
    assert "is no run folder: it has no metrics.csv" in refused(runs[0], tmp_path, capsys)


@pytest.mark.parametrize("content", ["", "{}", "[1]", "[{}]", '[{"seed": 0}]', "[" * 10**5])
def test_a_file_of_something_else_is_refused(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / figure1_right.STATIC
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(UserError, match=r"static\.json"):
        section(tmp_path)
    with pytest.raises(SystemExit):
        twins.main(["--results", str(tmp_path), "--docs", str(tmp_path / "docs")])
    assert "static.json" in capsys.readouterr().err and not (tmp_path / "docs").exists()


def test_rows_of_networks_of_two_depths_are_refused(tmp_path: Path, runs: list[Path]) -> None:
    main([*map(str, runs), "--results", str(tmp_path)])
    rows = json.loads((tmp_path / figure1_right.STATIC).read_text())
    del rows[1]["learnt"][2]
    (tmp_path / figure1_right.STATIC).write_text(json.dumps(rows))
    with pytest.raises(UserError, match="'learnt' of seed 1 has not the layers that other rows have"):
        section(tmp_path)


def refused(run: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as left:
        main([str(run), "--results", str(results)])
    assert left.value.code == 2
    return capsys.readouterr().err


def test_other_folders_are_refused(
    tmp_path: Path, runs: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "is no run folder: it has no recipe.yaml" in capsys.readouterr().err
    keys = yaml.safe_load((runs[0] / "recipe.yaml").read_text())
    keys["model"]["options"]["affinity"] = "dwconv3"
    del keys["model"]["options"]["gate"]
    (runs[0] / "recipe.yaml").write_text(yaml.safe_dump(keys))
    kernels = contagg.create("vit_tiny_mixer", img_size=8 * SIDE, **keys["model"]["options"])
    monkeypatch.setattr(figure1_right, "open_model", lambda run: (kernels, {}))
    with pytest.raises(SystemExit):
        main([str(runs[0])])
    assert "has kernels" in capsys.readouterr().err
