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
from contagg.lab.arms import Arm
from tools import figure1_right
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
        keys = {"model": {"name": "vit_tiny_mixer", "image_size": 8 * SIDE, "options": OPTIONS}, "run": {"seed": seed}}
        (tmp_path / str(seed) / "recipe.yaml").write_text(yaml.safe_dump(keys))
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
