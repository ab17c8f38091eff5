"""Errors that a person can act on, and the nearest right word for a wrong one. Needs no torch."""

import difflib
import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

LONGEST = 500
"""Characters of an error's line: what a file or a recipe holds may be of any length."""


class UserError(ValueError):
    """A bad input: one line that names the thing, its value, and what would be right. The command exits 2 with it.

    The line can be printed whatever a stranger's file says: `printable`, and at most `LONGEST` characters of it.

    >>> print(UserError("unknown class " + repr("ab" * 1000)))
    unknown class 'abababababababababababababababababababa...bababababababababababababababababababab'
    >>> str(UserError("two\\nlines"))
    'two\\\\nlines'
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(shortened(printable(str(message))))


@contextmanager
def named(what: str) -> Iterator[None]:
    """What goes wrong inside as a UserError that names `what`; of others' code, such as a mixer's, with its place.

    >>> with named("arm 'mine'"):
    ...     raise UserError("it has no heads")
    Traceback (most recent call last):
    contagg.errors.UserError: arm 'mine': it has no heads
    """
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}") from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        last = [frame for frame in frames if "site-packages" not in frame.filename][-1]  # torch's own tell nothing
        raise UserError(f"{what}: {type(error).__name__}: {error} ({last.filename}, line {last.lineno})") from error


def printable(text: str) -> str:
    r"""Text on one line: what cannot be seen as itself is escaped: line breaks, terminal escapes, marks of direction.

    >>> printable("a\nb\x1b[31m\u202ec")
    'a\\nb\\x1b[31m\\u202ec'
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def shortened(text: str, longest: int = LONGEST) -> str:
    """At most `longest` characters: of too long a text first its longest words lose their middles, then it its own.

    >>> shortened("a" * 50 + " is no number", 45)
    'aaaaaaaaaaaaaaa...aaaaaaaaaaaaaa is no number'
    """
    width = max(longest // 6, 32)
    if len(text) > longest:
        text = re.sub(rf"\S{{{width + 1},}}", lambda found: _without_middle(found[0], width), text)
    return _without_middle(text, longest)


def class_name(name: object) -> str:
    """A class's name as it is compared and shown, whatever a file gives. UserError for what is no text."""
    if not isinstance(name, str):
        raise UserError(f"the name of a class must be a text, not {name!r}")
    return shortened(printable(name), 200)


def _without_middle(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    end = (longest - 3) // 2
    return f"{text[: longest - 3 - end]}...{text[len(text) - end :]}"


def plural(number: float, one: str, many: str = "") -> str:
    """A whole number, or infinity, and what it counts; `many` where that is no `one` with an s.

    >>> plural(1, "run"), plural(1200, "run"), plural(0, "image has", "images have")
    ('1 run', '1,200 runs', '0 images have')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def nearest(word: Any, choices: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the closest of `choices`, or nothing where none is close, or where it is no text.

    Of two of one section, as data.name and data.root are, the rest must be close: what they share would make it so.
    All numbers are, as in stages.9 and stages.3.
    """
    if not isinstance(word, str):
        return ""
    for close in difflib.get_close_matches(word[:LONGEST], list(choices)):
        (section, _, rest), (other, _, last) = word.rpartition("."), close.rpartition(".")
        if not section or section != other or rest.isdigit() or difflib.get_close_matches(rest, [last]):
            return f" Did you mean {close!r}?"
    return ""
