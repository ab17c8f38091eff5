"""A log that cannot be written must not end what it tells of."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import IO, Any

_DESCRIPTORS = {"stdout": 1, "stderr": 2}


class LossyStream:
    """A text stream that passes on what the one behind it takes, and drops the rest without a word.

    A pipe whose reader went away (`contagg fit | head`), a full disk under the log, a terminal that was closed.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """All of it counts as written."""
        with contextlib.suppress(OSError, ValueError):  # ValueError: the stream was closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Or not."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def lossy_output() -> Iterator[None]:
    """While entered, standard output and error lose what they cannot write, whoever prints."""
    before = sys.stdout, sys.stderr
    _open_what_is_closed()
    sys.stdout, sys.stderr = (LossyStream(stream) for stream in (sys.stdout, sys.stderr))
    try:
        yield
    finally:
        for stream, descriptor in zip(before, _DESCRIPTORS.values(), strict=True):
            try:
                if stream is not None:
                    stream.flush()
            except (OSError, ValueError):  # Python flushes once more when it ends, and would exit with 120
                _to_nowhere(descriptor)
        sys.stdout, sys.stderr = before


def _open_what_is_closed() -> None:
    """Standard output closed by the shell (`>&-`): the next file to be opened would take its place and its text."""
    for name, descriptor in _DESCRIPTORS.items():
        try:
            os.fstat(descriptor)
        except OSError:
            _to_nowhere(descriptor)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "w", buffering=1, closefd=False))


def _to_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
