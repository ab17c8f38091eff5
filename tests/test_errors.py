"""What a stranger's file says is printed on one line, whatever it is."""

import pytest

from contagg.errors import LONGEST, UserError, nearest, printable, shortened


def test_an_error_shows_escapes_and_marks_of_direction_as_text() -> None:
    error = UserError("class 'a\x1b[2Jb\r\nc\x9b31m\u202ed\u2066e\x00\ud800' is unknown")
    assert str(error) == r"class 'a\x1b[2Jb\r\nc\x9b31m\u202ed\u2066e\x00\ud800' is unknown"
    str(error).encode()


@pytest.mark.parametrize("value", ["x" * 100_000, "word " * 20_000, "\x1b" * 100_000, "ä" * 100_000])
def test_an_error_keeps_its_beginning_and_its_advice(value: str) -> None:
    line = str(UserError(f"--model {value!r} is unknown. Did you mean 'container'?"))
    assert len(line) <= LONGEST
    assert line.startswith("--model '") and line.endswith("is unknown. Did you mean 'container'?")


def test_short_ones_are_as_written() -> None:
    message = "/a/long/path/" + "x" * 200 + " is no folder: give one, größer"
    assert str(UserError(message)) == message and printable("größer 日本") == "größer 日本"
    assert UserError().args == ("",) and len(shortened("ab " * 1000, 50)) == 50


def test_the_nearest_of_a_long_word_is_found_in_time() -> None:
    assert nearest("container_lihgt" + "x" * 10**6, ["container_light"]) == ""
    assert nearest("container_lihgt", ["container_light"]) == " Did you mean 'container_light'?"
