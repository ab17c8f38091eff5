"""What a command prints is lost: quietly for a pipe that was read enough of, in one line for a full disk."""

import subprocess
import sys

import pytest

from contagg.output import BROKEN_PIPE, LossyStream, counted, duration, lossy_output, required_output

COMMAND = f"{sys.executable} -c 'import contagg_cli; contagg_cli.main()'"
MANY_LINES = """
import contagg_cli, contagg.cli
contagg.cli._help = lambda below="": "\\n".join(["line"] * 100_000)
contagg.cli.main(["--help"])
"""


def shell(script: str, code: str = "") -> tuple[int, str, str]:
    done = subprocess.run(["bash", "-c", script, "bash", code], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_a_reader_that_has_enough_ends_a_command_without_a_word() -> None:
    code, out, err = shell(f'{sys.executable} -c "$1" | head -1; exit ${{PIPESTATUS[0]}}', MANY_LINES)
    assert (code, out, err) == (BROKEN_PIPE, "line\n", "")


def test_a_reader_that_went_before_the_first_line() -> None:
    code, _, err = shell(f"({COMMAND} --help; echo $? >&2) | true")
    assert code == 0 and err in (f"{BROKEN_PIPE}\n", "0\n")  # 0: `true` was slower


@pytest.mark.parametrize("arguments", ["--help", "curves --help"])  # argparse drops such errors
@pytest.mark.parametrize(
    ("to", "reason"),
    [("> /dev/full", "No space left on device"), (">&-", "Bad file descriptor")],
    ids=["full", "closed"],
)
def test_output_that_is_lost_is_one_line(arguments: str, to: str, reason: str) -> None:
    code, _, err = shell(f"{COMMAND} {arguments} {to}")
    assert (code, err) == (1, f"contagg: error: standard output cannot be written: {reason}\n")


def test_an_error_is_never_printed_as_output() -> None:
    """Python prints to standard output where standard error is closed."""
    assert shell(f"{COMMAND} nonsense 2>&-") == (2, "", "")


def test_a_log_that_cannot_be_written_ends_nothing() -> None:
    code = """
import contagg_cli
from contagg.output import lossy_output, required_output
with required_output(), lossy_output():
    print("lost" * 100_000, flush=True)
"""
    for to in ("> /dev/full", ">&-", "| true"):
        assert shell(f'{sys.executable} -c "$1" {to}', code)[::2] == (0, "")


def test_an_error_of_a_file_is_no_error_of_the_output() -> None:
    with pytest.raises(OSError, match="of a file"), required_output():
        raise OSError("of a file")


def test_streams_are_put_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout
    with required_output():
        print("one")
        with lossy_output():
            assert isinstance(sys.stdout, LossyStream)
            print("two")
    assert sys.stdout is before and capsys.readouterr().out == "one\ntwo\n"


def test_long_work_says_how_far_it_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 1000, 4))
    monkeypatch.setattr("contagg.output.time.monotonic", lambda: next(now))
    assert list(counted(range(2000, 2010), "sheep counted")) == list(range(2000, 2010))
    captured = capsys.readouterr()
    assert captured.err.splitlines()[0] == "2 of 10 sheep counted, about 48 s left" and not captured.out
    assert len(captured.err.splitlines()) == 3


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (60, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (7380, "2 h 03 min"),
        (356400, "4 d 03 h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
