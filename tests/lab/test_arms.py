"""Arms are read and checked before torch is imported; each fault is one line."""

import subprocess
import sys
from pathlib import Path

import pytest
from laboratory import RECIPE, written

from contagg.cli import main
from contagg.lab.arms import read_arms

BAD = {
    "there is nothing to compare: give --affinity WORD ... or --arm NAME KEY=VALUE": [],
    "unknown option --optimisation.epochs. Did you mean 'optimization.epochs'?": ["--optimisation.epochs", "3"],
    "unknown option --afinity. Did you mean 'affinity'?": ["--afinity", "dwconv3"],
    "arm 'light': unknown option --model.nam. Did you mean 'model.name'?": ["--arm", "light", "model.nam=vit"],
    "arm 'light': model.name: unknown model 'container_lite'": ["--arm", "light", "model.name=container_lite"],
    "arm 'light': 'model.name' is not KEY=VALUE, such as": ["--arm", "light", "model.name"],
    "arm 'long': optimization.epochs must be a whole number, not 'many'": ["--arm", "long", "optimization.epochs=many"],
    "arm 'other': run.folder, run.seed, run.devices and run.nodes are the": ["--arm", "other", "run.seed=3"],
    "two arms are called 'identity'": ["--affinity", "identity", "--arm", "identity", "data.fraction=1"],
    "the arms 'base' and 'again' have the same keys and values, and so the same runs": [
        "--arm", "base", "--affinity", "identity", "--arm", "again", "model.options.affinity=dwconv3",
    ],
    "the arms 'identity' and 'again' have the same keys and values": [
        "--affinity", "identity", "--arm", "again", "model.options.affinity=identity",
    ],
    "the name of an arm, '', must be": ["--arm", "", "data.fraction=1"],
    "argument --seeds: '0' is not a whole number above 0": ["--affinity", "identity", "--seeds", "0"],
    "argument --match: invalid choice: 'time'": ["--affinity", "identity", "--match", "time"],
    "compare makes each run in one process: run.devices x run.nodes is 2": ["--affinity", "a", "--run.devices", "2"],
}  # fmt: skip


@pytest.mark.parametrize("line", BAD)
def test_one_line(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leave:
        main(["compare", "-c", written(tmp_path), *BAD[line], "-o", str(tmp_path / "out")])
    printed = capsys.readouterr().err
    assert leave.value.code == 2 and line in printed and printed.count("\n") == 1, printed
    assert not (tmp_path / "out").exists()


def test_a_recipe_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "--affinity", "identity"])
    assert "names no task" in capsys.readouterr().err


def test_torch_is_not_imported_for_a_wrong_key(tmp_path: Path) -> None:
    code = f"""
import sys, contagg_cli
sys.argv = ["contagg", "compare", "-c", {written(tmp_path)!r}, "--affinity", "identity", "--modle.name", "x"]
try:
    contagg_cli.main()
except SystemExit as leave:
    sys.exit(9 if "torch" in sys.modules else leave.code)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 2


def test_words_and_keys(tmp_path: Path) -> None:
    words = ["-c", written(tmp_path), "--optimization.epochs", "7"]
    given = [
        ("affinity", ["dwconv3"]),
        ("affinity", ["attention + dwconv5"]),
        ("affinity", ["pool3, pool3,dwconv3, identity"]),
        ("affinity", ["[pool3, [pool3], dwconv3, identity]"]),
        ("arm", ["half", "data.fraction=0.02", "optimization.epochs=14"]),
    ]
    arms = read_arms(words, given)
    key = "model.options.affinity"
    assert [dict(arm.changes) for arm in arms.arms] == [
        {},  # the recipe's own word
        {key: "attention + dwconv5"},
        {key: ["pool3", "pool3", "dwconv3", "identity"]},
        {key: ["pool3", ["pool3"], "dwconv3", "identity"]},
        {"data.fraction": 0.02, "optimization.epochs": 14},
    ]
    options = RECIPE["model"]["options"]
    assert arms.arms[1].recipe.model.options == options | {"affinity": "attention + dwconv5"}
    assert arms.recipe.optimization.epochs == arms.arms[1].recipe.optimization.epochs == 7
    assert len({arm.folder for arm in arms.arms}) == 5 and arms.arms[2].folder.startswith("pool3_pool3_dwconv3_")
    wide = arms.changed(arms["half"], {"model.options.embed_dims": [8, 8, 8, 8]})
    assert wide["half"].changes == {**arms["half"].changes, "model.options.embed_dims": [8, 8, 8, 8]}
    assert wide["dwconv3"] is arms["dwconv3"]


def test_help_tells_how(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leave:
        main(["compare", "--help"])
    printed = capsys.readouterr().out
    assert leave.value.code == 0 and "--affinity" in printed and "runs.json" in printed
    assert max(map(len, printed.splitlines())) <= 120
