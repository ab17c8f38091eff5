"""What is being done where it takes long, how long is left, and a line where the page would be too large."""

import logging
import time
from collections.abc import Sequence

from contagg.errors import UserError, plural, printable
from contagg.explorer.packing import bytes_of
from contagg.inspect.forms import RecordedLayer
from contagg.output import duration

logger = logging.getLogger(__name__)

LARGE = 2**21
"""Pixels of an image from which something is said before anything has been done."""
MOST_BYTES = 2**28
"""Of the page's numbers: a third more as text, and Chromium takes no text of 2^29 letters."""


class Progress:
    """Says what is being done, at most every few seconds, and how long is left by what is done."""

    EVERY = 5.0

    def __init__(self) -> None:
        self.began = self.told = time.monotonic()

    def __call__(self, what: str, done: float) -> None:
        now = time.monotonic()
        if now - self.told < self.EVERY:
            return
        self.told = now
        left = f", about {duration((now - self.began) * (1 - done) / done)} left" if 0 < done < 1 else ""
        logger.info("%s%s", printable(what), left)


class Seeing:
    """Told how far a network on an image of `size` is.

    Raises:
        UserError: by the layers so far the page would be too large, so that the rest is not waited for.
    """

    def __init__(self, name: str, size: tuple[int, int]) -> None:
        self.name, self.size, self.progress = name, f"{size[0]} x {size[1]} pixels", Progress()
        if size[0] * size[1] >= LARGE:
            logger.info("%s: running it on %s, which may take minutes", printable(name), self.size)

    def __call__(self, layers: Sequence[RecordedLayer], done: float) -> None:
        expected = sum(bytes_of(term.form) for layer in layers for term in layer.terms) / done
        if expected > MOST_BYTES:
            raise UserError(
                f"{self.name}: the page of an image of {self.size} would hold about {expected / 1e6:.0f} MB of queries "
                f"and keys, more than the {MOST_BYTES / 1e6:.0f} MB that a browser takes; give a smaller --size, or "
                "fewer layers by --layers"
            )
        self.progress(
            f"{self.name}: {100 * done:.0f} % of the network has run, {plural(len(layers), 'layer')} recorded", done
        )
