"""What a detection recipe says of its images. Needs no torch: a recipe is checked first."""

from dataclasses import field
from pathlib import Path
from typing import Annotated

from contagg.config import (
    MUTABLE_ON_RESUME,
    Ascending,
    NonNegative,
    NotEmpty,
    Probability,
    Range,
    require,
    require_path,
    section,
)
from contagg.data.config import BitDepth, MaxPixels


@section("data.")
class CocoDataConfig:
    """Images and annotations in COCO's form; paths are below `root`.

    Attributes:
        root: The data set's folder.
        train_images: Folder of the training images.
        train_annotations: JSON file of the training images.
        validation_images: Folder of the images to judge by.
        validation_annotations: JSON file of the images to judge by.
        clip_boxes: Pixels that a box may reach beyond its image. Training clips it, evaluation takes it as it is.
        max_corrupt_fraction: Part of the images that may be unreadable. Each is named; in training another takes its
            place, in evaluation it counts nowhere. Beyond this training stops.
        max_pixels: Width times height of the largest image that is decoded: a file of a few KB may hold any number.
        bit_depth: Of grey images of more than 8 bits, 9 to 16; null takes what a TIFF says, else 16.
    """

    root: str = field(metadata=MUTABLE_ON_RESUME)
    train_images: str = "train2017"
    train_annotations: str = "annotations/instances_train2017.json"
    validation_images: str = "val2017"
    validation_annotations: str = "annotations/instances_val2017.json"
    clip_boxes: NonNegative = 1.0
    max_corrupt_fraction: Annotated[float, Range(0, 0.5)] = field(default=0.001, metadata=MUTABLE_ON_RESUME)
    max_pixels: MaxPixels = 2**26
    bit_depth: BitDepth | None = None

    def check_references(self) -> None:
        """UserError for a folder or a file that is not there."""
        require_path(self.root, "data.root")
        for name in ("train_images", "train_annotations", "validation_images", "validation_annotations"):
            require_path(Path(self.root, getattr(self, name)), f"data.{name}")


Side = Annotated[int, Range(32)]

MOST_PIXELS = 2**22
"""Of an image as a detector gets it: four times 800 x 1333. A weights file says how large its images are made."""


@section("augmentation.")
class ResizingConfig:
    """How large images are, and how training varies them (A.2, A.3).

    Attributes:
        short_sides: Of the shorter side in pixels; training draws one, evaluation takes the last.
        long_side: What the longer side may have at most; the shorter is smaller then.
        horizontal_flip: Probability that an image is mirrored.
        crop: Probability that training first resizes to one of crop_short_sides, whatever the longer side, and cuts a
            part out whose sides lie within crop_sides (DETR's is 0.5).
        crop_short_sides: Pixels that such a crop's image has on its shorter side.
        crop_sides: Range of such a crop's sides in pixels.
    """

    short_sides: Annotated[tuple[Side, ...], NotEmpty()] = (800,)
    long_side: int = 1333
    horizontal_flip: Probability = 0.5
    crop: Probability = 0.0
    crop_short_sides: Annotated[tuple[Side, ...], NotEmpty()] = (400, 500, 600)
    crop_sides: Annotated[tuple[Side, Side], Ascending()] = (384, 600)

    def __post_init__(self) -> None:
        sizes = list(self.short_sides)
        require(
            self.long_side >= max(sizes),
            f"augmentation.long_side {self.long_side} must not be below short_sides {sizes}",
        )
        require(
            self.long_side * max(sizes) <= MOST_PIXELS,
            f"augmentation.short_sides {sizes} and long_side {self.long_side} make images of up to "
            f"{self.long_side * max(sizes):,} pixels; {MOST_PIXELS:,} are taken",
        )
