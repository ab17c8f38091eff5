"""Batches of images of like shape, keyed as in classification: training resumes exactly, at any number of workers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from contagg.data.coco.dataset import CocoImages, Sample, Target, Transform, TransformedImages
from contagg.data.loaders import ImageLoader, TrainLoader
from contagg.data.sampling import EvaluationSampler, KeyedSampler

Batch = tuple[list[Any], list[Target]]
"""Images uint8 (3, H, W) of any sizes, and their targets; both are empty where nothing is left to evaluate."""


class AspectRatioSampler(KeyedSampler):
    """A KeyedSampler whose batches hold images that are all wide or all high, so that little of a batch is padding.

    What is left over of both kinds is put together at the end of the epoch, where it fills a batch.

    Args:
        aspects: Width by height, one a sample.
    """

    def __init__(self, aspects: np.ndarray, seed: int, *, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(len(aspects), seed, batch_size=batch_size, rank=rank, world_size=world_size)
        self.is_wide = np.asarray(aspects) >= 1

    def order(self) -> np.ndarray:
        """Whole batches of all processes in the order in which they fill up, then the rest."""
        order, total = super().order(), self.batch_size * self.world_size
        wide = self.is_wide[order]
        places = np.where(wide, wide.cumsum(), (~wide).cumsum()) - 1  # of a sample among its kind
        ends = np.empty(len(order), dtype=np.int64)
        for kind in (wide, ~wide):
            positions = np.flatnonzero(kind)
            last = positions[total - 1 :: total]  # where each of its batches fills up
            batch = places[positions] // total
            whole = batch < len(last)
            ends[positions[whole]] = last[batch[whole]]
            ends[positions[~whole]] = len(order)
        return order[np.argsort(ends, kind="stable")]


def train_loader(
    images: CocoImages,
    transform: Transform,
    batch_size: int,
    workers: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    max_corrupt_fraction: float = 0.001,
) -> TrainLoader:
    """Batches for one of `world_size` processes. UserError for fewer images than a batch of all of them."""
    sampler = AspectRatioSampler(images.aspects(), seed, batch_size=batch_size, rank=rank, world_size=world_size)
    return TrainLoader(
        TransformedImages(images, transform, max_corrupt_fraction),
        workers=workers,
        sampler=sampler,
        batch_size=batch_size,
        drop_last=True,
        collate_fn=as_lists,
    )


def evaluation_loader(
    images: CocoImages,
    transform: Transform,
    batch_size: int,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
    max_corrupt_fraction: float = 0.001,
) -> ImageLoader:
    """Every image once over all processes, in order, in equally many batches; those not to be read are left out."""
    return ImageLoader(
        TransformedImages(images, transform, max_corrupt_fraction),
        workers=workers,
        sampler=EvaluationSampler(len(images), rank, world_size),
        batch_size=batch_size,
        collate_fn=as_lists,
    )


def as_lists(samples: Sequence[Sample | None]) -> Batch:
    """Images and targets side by side; what stood in for nothing is left out."""
    present = [sample for sample in samples if sample is not None]
    return [image for image, _ in present], [target for _, target in present]
