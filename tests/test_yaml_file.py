"""YAML of strangers: each kind of odd file is answered with one line, at once."""

import os
import time
from pathlib import Path

import pytest

from contagg.errors import UserError
from contagg.yaml_file import LONGEST_FILE, read_section, read_yaml

BOMB = "model:\n  options:\n    a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"    a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 15)
)

ODD = {
    "a bomb of anchors": (BOMB, "more than 20,000 values, aliases counted"),
    "an anchor within itself": ("a: &a [1, *a]\n", "line 1: *a stands within what it stands for"),
    "an anchor of a mapping within itself": ("a: &a\n  b: *a\n", "line 2: *a stands within what it stands for"),
    "an unknown alias": ("a: *b\n", "*b stands within what it stands for, or for nothing"),
    "a tag": ("a: !!bool foo\n", "the tag tag:yaml.org,2002:bool is not for recipes"),
    "a tag of Python": ("a: !!python/object/apply:os.system [ls]\n", "the tag tag:yaml.org,2002:python/object"),
    "a set": ("a: !!set {b}\n", "the tag tag:yaml.org,2002:set is not"),
    "nesting in one line": ("a: " + "[" * 700 + "]" * 700 + "\n", "values lie more than 40 deep"),
    "nesting by lines": ("".join(" " * n + "a:\n" for n in range(700)), "values lie more than 40 deep"),
    "a number as a key": ("a: {1: 2}\n", "keys must be text, not 1"),
    "a list as a key": ("? [a, b]\n: 1\n", "is not readable YAML"),
    "a number of 5,000 digits": (f"a: {'9' * 5000}\n", "is not readable YAML"),
    "a value sign": ("a: =\n", "is not readable YAML"),
    "a section twice": ("a: {b: 1}\nc: 2\na: {d: 1}\n", "the key 'a' stands twice in \"<unicode string>\", line 3"),
    "a key twice below": ("a: {b: 1, b: 1}\n", "the key 'b' stands twice"),
    "two documents": ("a: 1\n---\nb: 2\n", "is not readable YAML"),
    "a tab": ("a:\n\tb: 1\n", "is not readable YAML"),
    "a control character": ("a: \x07\n", "is not readable YAML"),
    "text": ("only text", "holds no recipe"),
    "nothing": ("", "holds no recipe"),
    "too much": ("# " + "x" * LONGEST_FILE, "is larger than 262,144 bytes"),
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_file_is_one_line_at_once(tmp_path: Path, kind: str) -> None:
    text, message = ODD[kind]
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    began = time.process_time()
    with pytest.raises(UserError) as error:
        read_yaml(path)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert time.process_time() - began < 5


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, message in {
        "fifo": "is no file that can be read", "gone": "is no file", ".": "is no file", "binary": "not readable YAML",
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=message):
            read_yaml(tmp_path / name)


def test_plain_values(tmp_path: Path) -> None:
    """Dates are text and 1e-3 is a number; aliases are served."""
    path = tmp_path / "recipe.yaml"
    path.write_text("a: &a {b: 1e-3, c: 2026-01-31}\nd: {<<: *a, b: [null, true, 1.5e+2, '1e-3']}\n")
    assert read_yaml(path) == {
        "a": {"b": 0.001, "c": "2026-01-31"},
        "d": {"b": [None, True, 150.0, "1e-3"], "c": "2026-01-31"},
    }


def test_words_and_times_are_text(tmp_path: Path) -> None:
    """YAML 1.1 reads 1:30 as 90, 007 as 7, 1_0 as 10, and yes, no, on, off as true and false."""
    path = tmp_path / "recipe.yaml"
    words = ["yes", "No", "on", "OFF", "1:30", "1:30.5", "007", "1_0", "y"]
    path.write_text(f"a: [{', '.join(words)}]\nb: [true, False, -3, +2, 0x1f, .5, -.5e1, 1., 0]\n")
    found = read_yaml(path)
    assert found["a"] == words
    assert found["b"] == [True, False, -3, 2, 31, 0.5, -5.0, 1.0, 0]


def test_a_merged_mapping_may_override(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n")
    assert read_yaml(path)["b"] == {"x": 3, "y": 2}


def test_a_section(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    assert read_section(path, "data") == {}
    path.write_text("data: {name: digits}\nrun: 3\n")
    assert read_section(path, "data") == {"name": "digits"} and read_section(path, "model") == {}
    with pytest.raises(UserError, match="run must hold keys and values, not 3"):
        read_section(path, "run")
