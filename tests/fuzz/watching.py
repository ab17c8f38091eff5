"""What a case of the fuzz may do: answer, or refuse in one line; nothing else happens on the machine meanwhile."""

import contextlib
import copy
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from contagg.errors import LONGEST, UserError

SECONDS = 30
"""That a case may take, on a busy machine."""

_STARTING = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn")
_watched: list[tuple[Path, list[str]]] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watched:
        return
    folder, seen = _watched[-1]
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto") or event in _STARTING:
        seen.append(f"{event} {arguments[:2]}")
    elif event == "open" and isinstance(arguments[0], str | bytes):
        _, mode, flags = arguments
        writes = any(letter in mode for letter in "wax+") if isinstance(mode, str) else False
        if (writes or (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) and not _may_write(arguments[0], folder):
            seen.append(f"open {arguments[:2]}")


def _may_write(path: str | bytes, folder: Path) -> bool:
    where = Path(os.fsdecode(path)).absolute()
    return where == Path(os.devnull) or where.is_relative_to(folder) or where.suffix == ".pyc" or ".pyc." in where.name


sys.addaudithook(_hook)


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[list[str]]:
    """Collects connections, processes, and files opened for writing outside of `folder`."""
    _watched.append((folder, []))
    try:
        yield _watched[-1][1]
    finally:
        _watched.pop()


def answer(case: str, folder: Path, call: Callable[[], object]) -> str:
    """ "" for an answer, or the line with which a case was refused. AssertionError for anything else."""

    def too_long(*_: object) -> None:
        raise TimeoutError(f"{case}: no answer after {SECONDS} s")

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    line = ""
    with watched(folder) as seen:
        try:
            call()
        except UserError as error:
            line = str(error)
        except (Exception, SystemExit) as error:
            raise AssertionError(f"{case}: {type(error).__name__}: {error}") from error
        finally:
            signal.alarm(0)
    assert not seen, f"{case}: {seen}"
    assert line.isprintable() and len(line) <= LONGEST, f"{case}: {line!r}"
    return line


VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3.5, -0.0, 1e308, float("nan"), float("inf"), 10**12, 2**63, -(2**70),
    "", "x", "0", "null", "conv3", "container_light", "resnet18", "x" * 100_000, "\x1b[2J\x1b]0;title\x07",
    "\u202eabc", "\x00", "\ud800", "a\nb", "hf-hub:a/b", "local-dir:/etc", "http://127.0.0.1:9/x", "file:///etc/passwd",
    "pipe:touch x", "/etc/passwd", "../../../etc", "::", "data:,x",
    [], {}, [[]], [None], [0], [1, 2], [1e9, -1], ["a"] * 1000,
    {"a": 1}, {"": {}}, {"url": "http://127.0.0.1:9/x"}, [[[[[[[[1]]]]]]]], {"pretrained": True},
]  # fmt: skip
KEYS = [
    "pretrained", "cache_dir", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "features_only", "url",
    "", "x" * 10_000, "\x1b[31m", "affinity", "img_size", "depth", "embed_dims", "num_classes", "__class__",
]  # fmt: skip


def mutated(tree: Any, source: random.Random) -> Any:
    """A tree of JSON with one to three of its values replaced, left out, doubled or put elsewhere."""
    for _ in range(source.choice((1, 1, 1, 2, 3))):
        places = [*_places(tree)]
        holder, key = source.choice(places)
        action = source.random()
        if action < 0.55:
            holder[key] = copy.deepcopy(source.choice(VALUES))
        elif action < 0.7:
            del holder[key]
        elif action < 0.85 and isinstance(holder, dict):
            holder[source.choice(KEYS)] = copy.deepcopy(source.choice(VALUES))
        else:
            other, place = source.choice(places)
            there = place in (other if isinstance(other, dict) else range(len(other)))
            holder[key] = copy.deepcopy(other[place]) if there else None
    return tree


def _places(tree: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in [*items][:50]:
        yield tree, key
        if depth < 12:
            yield from _places(value, depth + 1)


def mangled(content: bytes, source: random.Random) -> bytes:
    """Bytes with some flipped, left out, doubled or cut off."""
    body = bytearray(content)
    for _ in range(source.choice((1, 1, 2, 4, 16))):
        place = source.randrange(max(len(body), 1))
        action = source.random()
        if action < 0.6 and body:
            body[place % len(body)] = source.randrange(256)
        elif action < 0.75:
            del body[place : place + source.randrange(1, 9)]
        elif action < 0.9:
            body[place:place] = body[place : place + source.randrange(1, 65)]
        else:
            del body[place:]
    return bytes(body)
