"""What the commands' arguments take, without torch."""

import argparse
import subprocess
import sys

import pytest

from contagg.inspect import arguments


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
        with pytest.raises(argparse.ArgumentTypeError, match="is not a whole number from 1"):
            arguments.heads(wrong)


def test_defaults_and_endings() -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    arguments.affinity(parser)
    found = parser.parse_args(["container_light", "a.jpg"])
    assert (found.at, found.stages, found.heads, found.out) == ((0.5, 0.5), None, ("mean",), "affinity.png")
    assert parser.parse_args(["m", "a.jpg", "--save-rows", "r.npz"]).save_rows == "r.npz"
    for option in ("--out", "--save-rows"):
        with pytest.raises(argparse.ArgumentError, match=r"'r\.txt' must end in one of"):
            parser.parse_args(["m", "a.jpg", option, "r.txt"])


def test_torch_is_not_imported() -> None:
    program = (
        "import sys; sys.modules['contagg_cli'] = sys; import contagg.inspect.arguments; print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"
