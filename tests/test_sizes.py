"""Sizes that a reader can hold: files, functions, classes."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MOST = {"file": 300, "function": 40, "class": 120}


def sizes(text: str) -> Iterator[tuple[str, str, int]]:
    """Kind, name and lines of a file (without a name) and of each class and function in it."""
    yield "file", "", len(text.splitlines())
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            kind = "class" if isinstance(node, ast.ClassDef) else "function"
            assert node.end_lineno is not None
            yield kind, node.name, node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("folder", ["src/contagg", "tools"])
def test_files_functions_and_classes_stay_within_a_readers_sight(folder: str) -> None:
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert len(paths) > 5
    too_large = [
        f"{path.relative_to(ROOT)}: {kind} {name} has {lines} lines, {MOST[kind]} at most"
        for path in paths
        for kind, name, lines in sizes(path.read_text())
        if lines > MOST[kind]
    ]
    assert not too_large, "\n".join(too_large)


def test_sizes_are_counted() -> None:
    text = "class A:\n    def f(self):\n        return 1\n\n\nasync def g(): ...\n"
    assert set(sizes(text)) == {("file", "", 6), ("class", "A", 3), ("function", "f", 2), ("function", "g", 1)}
