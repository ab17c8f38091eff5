"""How a tool ends where something is wrong."""

import subprocess
import sys

import pytest

import tools
from contagg.errors import UserError

ERRORS = [(UserError("no rows"), "error: no rows\n"), (KeyError("rows"), "KeyError: 'rows'\n")]


@pytest.mark.parametrize(("error", "told"), ERRORS)
def test_a_bad_input_is_one_line_and_a_fault_of_ours_all_that_python_tells(
    error: Exception, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tools.one_line(type(error), error, None)
    assert capsys.readouterr().err == told


def test_every_tool_ends_so() -> None:
    told = "import sys, tools; print(sys.excepthook is tools.one_line)"
    assert subprocess.check_output([sys.executable, "-c", told], text=True) == "True\n"
