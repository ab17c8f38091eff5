"""Output that cannot be written: a log must not end what it tells of, and an answer that is lost is no success.

Needs no torch.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

BROKEN_PIPE = 141
"""What a shell says of a program that SIGPIPE ended: whoever read the output had enough."""

_DESCRIPTORS = {"stdout": 1, "stderr": 2}


class LossyStream:
    """A text stream that passes on what the one behind it takes, and drops the rest without a word.

    A pipe whose reader went away (`contagg fit | head`), a full disk under the log, a terminal that was closed.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = _unwatched(stream)

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


class WatchedStream:
    """A text stream that remembers in `lost` the last error of the one behind it: argparse drops such errors."""

    def __init__(self, stream: IO[str]) -> None:
        self.watched = stream
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """As the stream behind it."""
        return self._remembering(self.watched.write, text)

    def flush(self) -> None:
        """As the stream behind it."""
        self._remembering(self.watched.flush)

    def _remembering(self, act: Callable[..., Any], *given: str) -> Any:
        try:
            return act(*given)
        except OSError as error:
            self.lost = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self.watched, name)


def duration(seconds: float) -> str:
    """`42 s`, `3 min 05 s`, `7 h 12 min`, `4 d 03 h`."""
    whole = round(seconds)
    for size, unit, smaller, name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller:02d} {name}"
    return f"{whole} s"


def counted(items: Sequence[Any], what: str, every: float = 10.0) -> Iterator[Any]:
    """The items; every so many seconds standard error says how many are done and about how long the others take."""
    began = last = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - last >= every:
            last = now
            left = (now - began) / done * (len(items) - done)
            print(f"{done:,} of {len(items):,} {what}, about {duration(left)} left", file=sys.stderr, flush=True)
        yield item


def table(lines: Sequence[Sequence[str]], left: int) -> str:
    """Lines of cells, in columns as wide as their widest cell: the first `left` to the left, the others to the right.

    >>> print(table([("layer", "share"), ("1", "0.25")], left=1))
    layer  share
    1       0.25
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = []
    for line in lines:
        sized = enumerate(zip(line, widths, strict=True))
        cells = [cell.ljust(width) if at < left else cell.rjust(width) for at, (cell, width) in sized]
        shown.append("  ".join(cells).rstrip())
    return "\n".join(shown)


@contextlib.contextmanager
def required_output() -> Iterator[None]:
    """While entered, what cannot print ends: without a word and with `BROKEN_PIPE` where the reader went away.

    With one line and 1 where the disk is full or standard output is closed. Standard error loses what it cannot write.
    """
    with _replaced(WatchedStream, LossyStream):
        output: Any = sys.stdout
        try:
            try:
                yield
            finally:
                output.flush()
        except (OSError, SystemExit) as error:
            code = error.code if isinstance(error, SystemExit) else 0
            if code or output.lost is None or (isinstance(error, OSError) and error is not output.lost):
                raise
        if isinstance(output.lost, BrokenPipeError):
            raise SystemExit(BROKEN_PIPE)
        if output.lost is not None:
            print(f"contagg: error: standard output cannot be written: {output.lost.strerror}", file=sys.stderr)
            raise SystemExit(1)


@contextlib.contextmanager
def lossy_output() -> Iterator[None]:
    """While entered, standard output and error lose what they cannot write, whoever prints."""
    with _replaced(LossyStream, LossyStream):
        yield


@contextlib.contextmanager
def _replaced(*kinds: Callable[[IO[str]], Any]) -> Iterator[None]:
    """While entered, standard output and error are behind streams of these kinds."""
    before = sys.stdout, sys.stderr
    _open_what_is_closed()
    there = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (kind(stream) for kind, stream in zip(kinds, there, strict=True))
    try:
        yield
    finally:
        for stream, descriptor in zip(there, _DESCRIPTORS.values(), strict=True):
            try:
                _unwatched(stream).flush()
            except (OSError, ValueError):  # Python flushes once more when it ends, and would exit with 120
                _to_nowhere(descriptor)
        sys.stdout, sys.stderr = before


def _unwatched(stream: Any) -> Any:
    return stream.watched if isinstance(stream, WatchedStream) else stream


def _open_what_is_closed() -> None:
    """Standard output closed by the shell (`>&-`): the next file to be opened would take its place and its text."""
    for name, descriptor in _DESCRIPTORS.items():
        try:
            os.fstat(descriptor)
        except OSError:
            _to_nowhere(descriptor, os.O_RDONLY)  # writing fails, as it does where nothing is open
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "w", buffering=1, closefd=False))


def _to_nowhere(descriptor: int, mode: int = os.O_WRONLY) -> None:
    nowhere = os.open(os.devnull, mode)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
