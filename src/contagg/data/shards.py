"""Images of WebDataset's shards that cannot be read: named, counted over all workers, too many of them an error."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import PurePath
from typing import Any

import torch
from timm.data.readers.reader_wds import ReaderWds, WdsTargetKeyError
from torch.utils.data import get_worker_info

from contagg.data.decode import UnreadableSampleError, as_grey_or_rgb
from contagg.errors import UserError, printable

logger = logging.getLogger(__name__)


class BrokenCount:
    """How many images of an epoch could not be read, by all workers of this process.

    Args:
        workers: Processes that read; 0 reads in this one.
        allowed_fraction: What `check` allows.
    """

    def __init__(self, workers: int, allowed_fraction: float) -> None:
        self.allowed_fraction = allowed_fraction
        self._counts = torch.zeros(max(workers, 1), dtype=torch.long).share_memory_()  # one each: none is lost

    def start(self) -> None:
        """Count from zero."""
        self._counts.zero_()

    def note(self, error: Exception) -> bool:
        """Name and count one that `naming` names; any other error is raised. True goes on."""
        if not isinstance(error, UnreadableSampleError):
            raise error
        logger.warning("left out an image that cannot be read: %s", error)
        worker = get_worker_info()
        self._counts[worker.id if worker else 0] += 1
        return True

    def check(self, images: int) -> None:
        """UserError once too many of an epoch's `images` are unreadable."""
        count = int(self._counts.sum())
        if count > self.allowed_fraction * images:
            raise UserError(
                f"{count} of {images} images of the stream cannot be read, more than data.max_corrupt_fraction "
                f"{self.allowed_fraction} allows; the lines above name them"
            )


def count_broken(reader: ReaderWds, broken: BrokenCount) -> None:
    """Set up timm's pipeline anew, with its decoding made to name and count what it would drop without a name."""
    import webdataset

    reader._lazy_init()
    stages: list[Any] = reader.ds.pipeline  # type: ignore[attr-defined]
    place = next(place for place, stage in enumerate(stages) if getattr(stage, "f", None) is webdataset.filters._map)
    stages[place] = webdataset.map(partial(naming, stages[place].args[0]), handler=broken.note)


def naming(decode: Callable[[dict[str, Any]], dict[str, Any] | None], sample: dict[str, Any]) -> dict[str, Any] | None:
    """timm's `decode` with the image in mode L or RGB. Errors name the sample by its shard and key.

    Raises:
        UnreadableSampleError: the image is broken.
        UserError: the recipe is, such as by a key that the samples lack.
    """
    try:
        decoded = decode(sample)
        return decoded and decoded | {"jpg": as_grey_or_rgb(decoded["jpg"])}
    except Exception as error:
        name = printable(f"{PurePath(sample.get('__url__', '')).name}/{sample.get('__key__')}")
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        if isinstance(error, (TypeError, WdsTargetKeyError)):  # the recipe is wrong, not the image
            raise UserError(f"data: {name}: {reason}") from error
        raise UnreadableSampleError(name, reason) from error
