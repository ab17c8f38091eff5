"""What the commands' arguments take, without torch."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from contagg import arguments
from contagg.inspect import affinity


def test_positions() -> None:
    assert arguments.position("120,80") == (120, 80)
    found = arguments.position("0.5, 1.")
    assert found == (0.5, 1.0) and [type(value) for value in found] == [float, float]
    assert [type(value) for value in arguments.position("0,.25")] == [int, float]
    for wrong in ("3", "1,2,3", "a,b", "-1,2", "1e3,2", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="is not ROW,COL"):
            arguments.position(wrong)


def test_lists() -> None:
    assert arguments.numbers("4, 1") == (4, 1)
    assert arguments.heads("mean,3") == ("mean", 3)
    for wrong in ("", "0", "1,", "x", "1.5", "-1", "means"):
        with pytest.raises(argparse.ArgumentTypeError, match="is not a whole number above 0"):
            arguments.heads(wrong)


def test_defaults_and_endings() -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    affinity(parser)
    found = parser.parse_args(["container_light", __file__])
    assert (found.at, found.stages, found.heads, found.out) == ((0.5, 0.5), None, ("mean",), "affinity.png")
    assert parser.parse_args(["container", __file__, "--save-rows", "r.npz"]).save_rows == "r.npz"
    for option in ("--out", "--save-rows"):
        with pytest.raises(argparse.ArgumentError, match=r"'r\.txt' must end in one of"):
            parser.parse_args(["container", __file__, option, "r.txt"])


def test_what_is_in_the_way_of_an_output_is_said_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "file.csv").touch()
    for free in ("new/deep/a.csv", "file.csv", "there/a.csv"):
        assert arguments.output_file(str(tmp_path / free)) == tmp_path / free
    for free in ("new/deep", "there"):
        assert arguments.output_folder(str(tmp_path / free)) == tmp_path / free
    (tmp_path / "there.csv").mkdir()
    for check in (arguments.output_file, arguments.ending((".csv",))):
        with pytest.raises(argparse.ArgumentTypeError, match=r"there\.csv is a folder"):
            check(str(tmp_path / "there.csv"))
        with pytest.raises(argparse.ArgumentTypeError, match=r"file\.csv is no folder"):
            check(str(tmp_path / "file.csv/deep/a.csv"))
    for wrong in ("file.csv", "file.csv/deep"):
        with pytest.raises(argparse.ArgumentTypeError, match=r"file\.csv is no folder"):
            arguments.output_folder(str(tmp_path / wrong))


def test_models_and_files(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.safetensors").touch()
    assert arguments.model(str(tmp_path)) == str(tmp_path) and arguments.model("container") == "container"
    for wrong in ("run/none", "best.safetensors", "google/vit", "containre"):
        with pytest.raises(argparse.ArgumentTypeError, match=wrong):
            arguments.model(wrong)
    for check in (arguments.run_or_weights, arguments.existing_file, arguments.existing_folder, arguments.images):
        assert check(__file__ if check is not arguments.existing_folder else str(tmp_path))
        with pytest.raises(argparse.ArgumentTypeError, match="nowhere"):
            check(str(tmp_path / "nowhere"))


def test_torch_is_not_imported() -> None:
    program = "import sys; sys.modules['contagg_cli'] = sys; import contagg.arguments; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"
