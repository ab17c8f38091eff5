"""What is wrong with somebody's annotations, counted, so that a person mends a file once and not fault by fault."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from contagg.errors import UserError

T = TypeVar("T")

_SHOWN = 3
_LONGEST = 115  # of one fault among several, so that all that are shown fit into one line


class Faults:
    """Collects the faults of a file or folder.

    Examples:
        >>> faults = Faults(Path("boxes.json"))
        >>> for number in range(5):
        ...     with faults.of(f"box {number}"):
        ...         raise UserError(": it has no width")
        >>> faults.settle()
        Traceback (most recent call last):
        contagg.errors.UserError: boxes.json has 5 faults: box 0: it has no width; box 1: it has no width; box 2: it has no width; and 2 more
    """  # noqa: E501

    def __init__(self, path: Path) -> None:
        self.path, self.count, self.first = path, 0, list[str]()

    @contextlib.contextmanager
    def of(self, where: str) -> Iterator[None]:
        """Keep the UserError that is raised inside, with the name of what it is of before its text."""
        try:
            yield
        except UserError as error:
            self._keep(where, error)

    def result(self, where: str, check: Callable[..., T], *arguments: object) -> T | None:
        """What a function gives; None where it raises a UserError, which is kept. So an entry's faults are all found.

        Quicker than `of`: of COCO's 860,000 annotations each has several parts to check.
        """
        try:
            return check(*arguments)
        except UserError as error:
            self._keep(where, error)
            return None

    def _keep(self, where: str, error: UserError) -> None:
        self.count += 1
        if len(self.first) < _SHOWN:
            self.first.append(f"{where}{error}")

    def settle(self) -> None:
        """UserError with the first of them and their number, where there are any."""
        if self.count == 1:
            raise UserError(f"{self.path}: {self.first[0]}")
        if self.count:
            shown = "; ".join(f if len(f) <= _LONGEST else f"{f[: _LONGEST - 4]} ..." for f in self.first)
            more = f"; and {self.count - len(self.first):,} more" if self.count > len(self.first) else ""
            raise UserError(f"{self.path} has {self.count:,} faults: {shown}{more}")
