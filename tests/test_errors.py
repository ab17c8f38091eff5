"""What a stranger's file says is printed on one line, whatever it is."""

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest

import contagg
from contagg.errors import LONGEST, UserError, nearest, plural, printable, shortened

SEVERAL = {"len(terms)", "len(known)", "len(others)", "len(prefixes)", "len(CHECKS)"}
"""What is counted only where there are two or more."""


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


def test_two_of_one_section_are_near_only_by_what_they_do_not_share() -> None:
    assert nearest("--data.name", ["--data.root", "--device"]) == ""
    assert nearest("--data.rot", ["--data.root", "--device"]) == " Did you mean '--data.root'?"
    assert nearest("optimisation.epochs", ["optimization.epochs"]) == " Did you mean 'optimization.epochs'?"
    assert nearest("model.option", ["model.drop_path", "model.options"]) == " Did you mean 'model.options'?"


def test_a_sentence_ends_before_what_may_be_meant() -> None:
    found = []
    texts = {path: path.read_text() for path in Path(contagg.__file__).parent.rglob("*.py")}
    for path, text in texts.items():
        for node in ast.walk(ast.parse(text)) if "nearest(" in text else ():
            parts = node.values if isinstance(node, ast.JoinedStr) else []
            for before, value in pairwise([ast.Constant(""), *parts]):
                asked = ast.unparse(value) if isinstance(value, ast.FormattedValue) else ""
                ended = isinstance(before, ast.Constant) and str(before.value).endswith(".")
                if "nearest(" in asked and not ended:
                    found.append(f"{path.name}, line {node.lineno}: {asked}")
    assert not found, "\n".join(found)


def test_one_is_no_plural() -> None:
    assert plural(1, "class", "classes") == "1 class" and plural(0, "class", "classes") == "0 classes"
    assert plural(1200, "training image") == "1,200 training images"


def test_no_text_counts_with_a_noun_that_is_always_a_plural() -> None:
    """`1 images`: what a length or a sum stands before is said by `plural`."""
    found = []
    for path in Path(contagg.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else []
            for value, after in pairwise(parts):
                if isinstance(value, ast.FormattedValue) and isinstance(after, ast.Constant):
                    counted = ast.unparse(value.value)
                    noun = re.match(r" (more )?(?!is\b)[a-z]+s\b", after.value)
                    if (
                        noun
                        and counted not in SEVERAL
                        and re.match(r"(len|sum)\(|(count|epochs|images|total)$", counted)
                    ):
                        found.append(f"{path.name}, line {node.lineno}: {{{counted}}}{noun[0]}")
    assert not found, "\n".join(found)
