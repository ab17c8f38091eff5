"""What serves the work on contagg and is no part of it: run as `python -m tools.NAME` from the repository root."""

import sys
from types import TracebackType


def one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """How a tool ends: a bad input with one line, what nobody thought of with all that Python tells."""
    from contagg.errors import UserError  # torch comes with it, which not every tool needs

    if isinstance(error, UserError):
        print(f"error: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = one_line
