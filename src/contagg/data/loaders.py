"""Batches of labelled images: keyed, so that training resumes exactly; in evaluation each image once, no more."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, count, islice
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from contagg.data.sampling import EvaluationSampler, KeyedDataset, KeyedSampler, seed_streamed
from contagg.data.streams import Count, ImageStream, Reading
from contagg.errors import UserError, plural

Batch = tuple[Any, torch.Tensor]


class ImageLoader(DataLoader[Any]):
    """torch's DataLoader of a KeyedDataset or a stream, which stops with one line once too many images are unreadable.

    Batches are (images (B, C, H, W), targets (B,) int64). In evaluation a target may be `sampling.IGNORE_INDEX`:
    padding or an unreadable image, to be counted nowhere.
    """

    dataset: Any

    def __init__(self, dataset: Any, *, workers: int, **options: Any) -> None:
        # A generator of its own: otherwise starting workers would draw from the one that training draws from.
        options |= {"num_workers": workers, "persistent_workers": workers > 0, "generator": torch.Generator()}
        super().__init__(dataset, **options)

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        # Nothing runs before the first batch is asked for: Lightning makes the iterator before it sets the epoch.
        if self.stream_counts:
            self.stream_counts.start()
        try:
            for images, targets in super().__iter__():
                self.dataset.check()
                yield images, targets
            self.dataset.check()
        except UserError as error:
            self._stop_workers()
            raise UserError(_without_traceback(str(error))) from error

    @property
    def stream_counts(self) -> Count | None:
        """What this process has met of a stream; None for other images."""
        return getattr(self.dataset, "counts", None)

    def _stop_workers(self) -> None:
        # Left to the garbage collector, which closes their queues first, each worker would take five seconds to go.
        if self._iterator is not None:
            self._iterator._shutdown_workers()  # type: ignore[attr-defined]
            self._iterator = None

    @property
    def unreadable(self) -> list[int]:
        """Indices of the images found unreadable so far; those of a stream have none."""
        return self.dataset.unreadable if isinstance(self.dataset, KeyedDataset) else []


class TrainLoader(ImageLoader):
    """An ImageLoader over a KeyedSampler, whose whole state is {epoch, batch, total_batch}: the next batch to come.

    `len` is that of a whole epoch, also when the next one begins in its midst. Lightning sets the epoch through
    `sampler`, and saves and loads the state with its checkpoints.
    """

    sampler: KeyedSampler
    _handed_out = (-1, 0)  # the epoch last read, and how many of its batches

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        epoch, first = self.sampler.epoch, self.sampler.first_batch
        for number, batch in enumerate(super().__iter__(), start=first + 1):
            self._handed_out = (epoch, number)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Of the batches handed out, not of those that workers have prepared."""
        epoch, batch = self._handed_out
        if epoch != self.sampler.epoch:
            batch = self.sampler.first_batch
        return {"epoch": self.sampler.epoch, "batch": batch, "total_batch": self._total_batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state` was taken, at any number of workers or processes; UserError for another total batch."""
        if state["total_batch"] != self._total_batch:
            raise UserError(
                f"the run had batches of {state['total_batch']} images over all processes, now of {self._total_batch}: "
                "set optimization.batch_size so that they agree"
            )
        self._handed_out = (state["epoch"], state["batch"])
        self.sampler.start_at(state["epoch"], state["batch"])

    @property
    def _total_batch(self) -> int:
        return self.sampler.batch_size * self.sampler.world_size


def train_loader(
    data: Any,
    transform: Callable[[Any], Any],
    batch_size: int,
    workers: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    *,
    shuffle: bool = True,
    repeats: int = 1,
    max_corrupt_fraction: float = 0.001,
    pin_memory: bool = False,
) -> ImageLoader:
    """Whole batches of training images for one of `world_size` processes; see KeyedSampler and KeyedDataset.

    Args:
        data: Map-style, or an ImageStream, see StreamLoader.
        batch_size: Images a process takes at once.

    Raises:
        UserError: for fewer images than a batch of all processes, or fewer shards than readers.
    """
    if isinstance(data, ImageStream):
        return _stream_loader(
            data, transform, batch_size, workers, rank, world_size, pin_memory, max_corrupt_fraction, seed
        )
    sampler = KeyedSampler(
        len(data), seed, batch_size=batch_size, shuffle=shuffle, rank=rank, world_size=world_size, repeats=repeats
    )
    dataset = KeyedDataset(data, transform, max_corrupt_fraction)
    options = {"batch_size": batch_size, "drop_last": True, "pin_memory": pin_memory}
    return TrainLoader(dataset, workers=workers, sampler=sampler, collate_fn=_as_it_is, **options)


def evaluation_loader(
    data: Any,
    transform: Callable[[Any], Any],
    batch_size: int,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
    *,
    max_corrupt_fraction: float = 0.001,
    pin_memory: bool = False,
) -> ImageLoader:
    """Every image once over all processes, in order, in equally many batches; IGNORE_INDEX counts nowhere."""
    if isinstance(data, ImageStream):
        return _stream_loader(data, transform, batch_size, workers, rank, world_size, pin_memory, max_corrupt_fraction)
    dataset = KeyedDataset(data, transform, max_corrupt_fraction)
    sampler = EvaluationSampler(len(data), rank, world_size)
    options = {"batch_size": batch_size, "pin_memory": pin_memory}
    return ImageLoader(dataset, workers=workers, sampler=sampler, collate_fn=_as_it_is, **options)


def _as_it_is(batch: Batch) -> Batch:
    """KeyedDataset gives whole batches. A function with a name, for workers that are not forked."""
    return batch


class _TransformedStream(IterableDataset[Any]):
    """A worker's part of a stream. With a seed, an epoch's order and how images are varied are functions of it.

    Args:
        part: Of one process: its rank and how many there are, how many workers it has, and the seed of training.
        batch_size: Of training, where each reader makes whole batches.
        allowed_fraction: What `check` allows.
    """

    def __init__(
        self,
        stream: ImageStream,
        transform: Callable[[Any], Any],
        part: Reading,
        batch_size: int,
        allowed_fraction: float,
    ) -> None:
        self.stream, self.transform, self.part, self.batch_size = stream, transform, part, batch_size
        self.counts = Count(part.workers, allowed_fraction)
        self.epoch = torch.zeros((), dtype=torch.long).share_memory_()  # workers that stay must hear of it

    def set_epoch(self, epoch: int) -> None:
        self.epoch.fill_(epoch)

    @property
    def _quota(self) -> int | None:
        """Images that each reader gives, over and over if it must; None reads each once."""
        if self.part.seed is None and self.part.world_size == 1:
            return None
        share = -(-len(self.stream) // self.part.readers)
        return share if self.part.seed is None else -(-share // self.batch_size) * self.batch_size

    def __len__(self) -> int:
        quota = self._quota
        return len(self.stream) if quota is None else quota * self.part.workers

    def check(self) -> None:
        """UserError once too many of this process's images of an epoch are unreadable."""
        world_size = self.part.world_size
        self.counts.check(-(-len(self.stream) // world_size), all_here=world_size == 1)

    def _again(self, reading: Reading) -> Iterator[tuple[Any, int]]:
        """Passes after the one that is counted, so that what is met again counts once."""
        uncounted = Count(self.part.workers, 1.0)
        for again in count(1):
            images = self.stream.images(replace(reading, again=again), uncounted)
            if (first := next(images, None)) is None:
                self.check()
                raise UserError(f"data: reader {reading.reader} of {reading.readers} has no image that can be read")
            yield first
            yield from images

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        worker = get_worker_info()
        reading = replace(self.part, worker=worker.id if worker else 0, epoch=int(self.epoch))
        once, quota = self.stream.images(reading, self.counts), self._quota
        images = once if quota is None else chain(once, self._again(reading))
        for number, (image, label) in enumerate(islice(images, quota), start=1):
            if reading.seed is not None:
                seed_streamed(reading.seed, reading.epoch, reading.rank, reading.worker, number - 1)
            elif number == quota:
                deque(islice(once, quota), maxlen=0)  # what its shards hold beyond, so that a split's number is checked
            yield self.transform(image), label


class StreamLoader(ImageLoader):
    """Training batches of a stream, whose state is {epoch, batch, readers}. To go on it reads what came before again.

    Exact for WebDataset with as many readers, that is processes x workers, as before.
    """

    dataset: _TransformedStream
    _start = _handed_out = (-1, 0)  # epoch and batches

    def __init__(self, dataset: _TransformedStream, readers: int, **options: Any) -> None:
        super().__init__(dataset, **options)
        self.readers = readers
        # Lightning tells the epoch to a loader's sampler only; here the stream needs it, to shuffle anew.
        self.sampler.set_epoch = dataset.set_epoch  # type: ignore[attr-defined]

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        epoch = int(self.dataset.epoch)
        skipped = self._start[1] if self._start[0] == epoch else 0
        for number, batch in enumerate(super().__iter__(), start=1):
            if number > skipped:
                self._handed_out = (epoch, number)
                yield batch

    def state_dict(self) -> dict[str, int]:
        """Of the batches handed out, not of those that workers have prepared."""
        epoch, batch = self._handed_out
        return {"epoch": epoch, "batch": batch, "readers": self.readers}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state` was taken. UserError in an epoch's midst with other readers, whose order is another."""
        if state["readers"] != self.readers and 0 < state["batch"] < len(self):
            raise UserError(
                f"a stream goes on with as many readers (processes x workers) as before: {state['readers']}, "
                f"not {self.readers}; set run.workers so"
            )
        self._start = self._handed_out = (state["epoch"], state["batch"])


def _stream_loader(
    stream: ImageStream,
    transform: Callable[[Any], Any],
    batch_size: int,
    workers: int,
    rank: int,
    world_size: int,
    pin_memory: bool,
    max_corrupt_fraction: float,
    seed: int | None = None,
) -> ImageLoader:
    part = Reading(rank=rank, world_size=world_size, workers=max(workers, 1), seed=seed)
    if stream.shards is not None and stream.shards < part.readers:
        raise UserError(
            f"data: {plural(stream.shards, 'shard is', 'shards are')} fewer than {part.readers} readers "
            f"({plural(world_size, 'process', 'processes')} x "
            f"{plural(part.workers, 'worker')}): lower run.workers, or make more shards"
        )
    options = {"workers": workers, "batch_size": batch_size, "pin_memory": pin_memory}
    dataset = _TransformedStream(stream, transform, part, batch_size, max_corrupt_fraction)
    if seed is None:
        return ImageLoader(dataset, drop_last=False, **options)
    return StreamLoader(dataset, part.readers, drop_last=True, **options)


def _without_traceback(message: str) -> str:
    """An error in a worker arrives with the worker's traceback before it, on one line with escaped line breaks."""
    return message.rsplit(f"{UserError.__module__}.{UserError.__qualname__}: ", 1)[-1].removesuffix(r"\n")
