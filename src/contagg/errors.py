"""Errors that a person can act on, and the nearest right word for a wrong one. Needs no torch."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A bad input: one line that names the thing, its value, and what would be right. The command exits 2 with it."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the closest of `choices`, or nothing where none is close."""
    close = difflib.get_close_matches(word, list(choices), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
