"""Data order and randomness as pure functions of keys, so that a run resumes exactly and forgets nothing by dying.

No state of a random number generator is ever saved. Which image comes when is a function of (seed, epoch); how an image
is varied, of (seed, epoch, index); what a step draws (mixup, drop path), of (seed, epoch, batch, rank). Therefore the
samples of an epoch depend neither on the number of workers nor on where a run was killed, and with the same total batch
they are the same at any number of processes.
"""

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, Sampler, default_collate

from contagg.data.decode import UnreadableSampleError
from contagg.errors import UserError, plural

logger = logging.getLogger(__name__)

IGNORE_INDEX = -1
"""The target of what stands in an evaluation batch but must count nowhere: padding, and images that cannot be read."""

_ORDER, _SAMPLE, _STEP, _REPLACEMENT, _STREAM = range(5)  # what a key is for: keys of two purposes never meet
_REPLACEMENTS = 100  # with at most half of the images unreadable, that many draws fail once in 1e30
_CHUNK = 8192  # samples turned into Python numbers at a time, so that an epoch of millions costs no memory

KeyedIndex = tuple[int, int | None]
"""The index of a sample and the key of its randomness; None where there is none, as in evaluation."""


def hashed(*parts: int | np.ndarray) -> np.ndarray:
    """A 64-bit hash of integers or arrays of them, broadcast; uint64. Each part goes through splitmix64's finalizer."""
    state = np.zeros(1, dtype=np.uint64)
    for part in parts:
        state = state ^ np.asarray(part, dtype=np.uint64)
        state = state + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return state


def uniform(keys: np.ndarray, draw: int) -> np.ndarray:
    """The `draw`-th number in [0, 1) of each key; float64."""
    return (hashed(keys, draw) >> np.uint64(11)) * 2.0**-53


def seed_sample(key: int) -> None:
    """Seed Python, NumPy and torch's CPU generator: what transforms draw from. GPUs are left alone."""
    random.seed(key)
    np.random.seed(key & 0xFFFFFFFF)
    torch.default_generator.manual_seed(key)


def seed_step(seed: int, epoch: int, batch: int, rank: int) -> None:
    """Seed Python, NumPy and torch on every device for one training step of one process: mixup, dropout, drop path."""
    key = int(hashed(_STEP, seed, epoch, batch, rank)[0])
    seed_sample(key)
    torch.manual_seed(key)


def seed_streamed(seed: int, epoch: int, rank: int, worker: int, number: int) -> None:
    """Seed as `seed_sample` does for the number-th sample that a worker of a process reads from a stream."""
    seed_sample(int(hashed(_STREAM, seed, epoch, rank, worker, number)[0]))


def require_batch(length: int, batch_size: int, world_size: int) -> None:
    """UserError for fewer training images than a batch of all processes."""
    if length < batch_size * world_size:
        raise UserError(
            f"{plural(length, 'training image is', 'training images are')} fewer than a batch of "
            f"{batch_size * world_size} ({batch_size} x {plural(world_size, 'process', 'processes')}): "
            "lower optimization.batch_size"
        )


class KeyedSampler(Sampler[KeyedIndex]):
    """Yields (index, key) for one process of `world_size`, for whole batches only, from any batch of an epoch on.

    Processes take turns in one global order, so that batch t of all of them together holds the same samples at any
    world size with the same total batch. An epoch has length // (batch_size * world_size) batches; the samples left
    over, fewer than a total batch, differ from epoch to epoch.

    Args:
        length: Samples in the data set.
        batch_size: Samples a process takes at once.
        repeats: Views of a sample that follow each other, each with a key of its own (repeated augmentation).

    Raises:
        UserError: there are fewer samples than a batch of all processes.
    """

    def __init__(
        self,
        length: int,
        seed: int,
        *,
        batch_size: int,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        repeats: int = 1,
    ) -> None:
        self.length, self.seed, self.shuffle, self.repeats = length, seed, shuffle, repeats
        self.rank, self.world_size, self.batch_size = rank, world_size, batch_size
        require_batch(length, batch_size, world_size)
        self.batches = length // (batch_size * world_size)
        self.epoch = 0
        self._start = (0, 0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields."""
        self.epoch = epoch

    def start_at(self, epoch: int, batch: int) -> None:
        """Let epoch `epoch` begin at batch `batch`; every other epoch begins at its first."""
        self._start = (epoch, batch)
        self.epoch = epoch

    @property
    def first_batch(self) -> int:
        """The batch that the next iteration begins with."""
        epoch, batch = self._start
        return batch if epoch == self.epoch else 0

    def __len__(self) -> int:
        return self.batches * self.batch_size

    def order(self) -> np.ndarray:
        """The samples of this epoch in the order in which all processes together take them."""
        order = np.arange(self.length)
        return np.argsort(hashed(_ORDER, self.seed, self.epoch, order), kind="stable") if self.shuffle else order

    def __iter__(self) -> Iterator[KeyedIndex]:
        order = self.order()
        taken = np.arange(self.first_batch * self.batch_size, len(self)) * self.world_size + self.rank
        for begin in range(0, len(taken), _CHUNK):
            places = taken[begin : begin + _CHUNK]
            indices = order[places // self.repeats]
            keys = hashed(_SAMPLE, self.seed, self.epoch, indices, places % self.repeats)
            yield from zip(indices.tolist(), keys.tolist(), strict=True)


class EvaluationSampler(Sampler[KeyedIndex]):
    """Yields each index once over all processes, in order; one that comes out short gets (IGNORE_INDEX, None) last.

    So all processes make the same number of batches, which DDP needs, and no sample counts twice.
    """

    def __init__(self, length: int, rank: int = 0, world_size: int = 1) -> None:
        self.length, self.rank, self.world_size = length, rank, world_size

    def __len__(self) -> int:
        return -(-self.length // self.world_size)

    def __iter__(self) -> Iterator[KeyedIndex]:
        for index in range(self.rank, len(self) * self.world_size, self.world_size):
            yield (index if index < self.length else IGNORE_INDEX), None


class KeyedDataset(Dataset[tuple[Any, int]]):
    """Samples of a map-style data set, transformed with randomness that is a function of the key alone.

    Takes (index, key) as the samplers above yield them. Before a transform, Python's, NumPy's and torch's generators
    are seeded from the key. A sample that raises UnreadableSampleError is named in a warning and counted, over all
    workers; with a key, a sample drawn from that key takes its place, without one, a black image, target IGNORE_INDEX.

    Where the data set can give many images at once (`gather`) and the transform can take them (`batch`), a batch is
    made in one go: images in memory cost microseconds then.

    Args:
        dataset: Gives (image, target) by index. May have `name(index)`, and `labels` and `gather(indices)` as above.
        transform: Makes of an image what goes into a batch.
        max_unreadable_fraction: What `check` allows.
    """

    def __init__(self, dataset: Any, transform: Callable[..., Any], max_unreadable_fraction: float = 0.0) -> None:
        self.dataset, self.transform = dataset, transform
        self.max_unreadable_fraction = max_unreadable_fraction
        self._whole_batches = hasattr(dataset, "gather") and hasattr(transform, "batch")
        # Shared with the workers, which are other processes. A lost race costs a second warning, never a count.
        self._unreadable = torch.zeros(len(dataset), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, keyed: KeyedIndex) -> tuple[Any, int]:
        index, key = keyed
        image, target = self._read(index, key)
        if key is not None:
            seed_sample(key)
        return self.transform(image), target

    def __getitems__(self, items: Sequence[KeyedIndex]) -> tuple[Any, torch.Tensor]:
        """A whole batch: images (B, C, H, W), targets (B,) int64."""
        if self._whole_batches:
            return self._gathered(items)
        images, targets = default_collate([self[item] for item in items])
        return images, targets

    def _gathered(self, items: Sequence[KeyedIndex]) -> tuple[torch.Tensor, torch.Tensor]:
        indices = np.array([index for index, _ in items])
        keys = None if items[0][1] is None else np.array([key for _, key in items], dtype=np.uint64)
        images = self.transform.batch(self.dataset.gather(indices.clip(0)), keys)  # type: ignore[attr-defined]
        targets = np.where(indices == IGNORE_INDEX, IGNORE_INDEX, self.dataset.labels[indices])
        return images, torch.from_numpy(targets)

    def _read(self, index: int, key: int | None) -> tuple[Any, int]:
        if index != IGNORE_INDEX:
            for attempt in range(1 if key is None else _REPLACEMENTS):
                try:
                    return self.dataset[index]
                except UnreadableSampleError as error:
                    self._note(index, error)
                    if key is not None:
                        index = int(hashed(_REPLACEMENT, key, attempt)[0] % np.uint64(len(self)))
        return Image.new("RGB", (32, 32)), IGNORE_INDEX

    def _note(self, index: int, error: UnreadableSampleError) -> None:
        if not self._unreadable[index]:
            self._unreadable[index] = True
            logger.warning("skipped an image that cannot be read: %s", error)

    @property
    def unreadable(self) -> list[int]:
        """The samples found unreadable so far, by this process and its workers."""
        return torch.nonzero(self._unreadable).flatten().tolist()

    def check(self) -> None:
        """UserError, naming the first of them, once too many samples are unreadable. Cheap enough for every batch."""
        count = int(np.count_nonzero(self._unreadable.numpy()))
        if count <= self.max_unreadable_fraction * len(self):
            return
        first = [self._reason(index) for index in self.unreadable[:5]]
        more = f" and {count - len(first)} more" if count > len(first) else ""
        raise UserError(
            f"{count} of {plural(len(self), 'image')} cannot be read, more than data.max_corrupt_fraction "
            f"{self.max_unreadable_fraction} allows: {'; '.join(first)}{more}"
        )

    def _reason(self, index: int) -> str:
        try:
            self.dataset[index]
        except UnreadableSampleError as error:
            return str(error)
        return f"{self.dataset.name(index)}: readable by now"
