"""What a detection recipe says of its images. Needs no torch: a recipe is checked first."""

from dataclasses import dataclass, field
from pathlib import Path

from contagg.config import MUTABLE_ON_RESUME, require, require_path


@dataclass(frozen=True, kw_only=True)
class CocoDataConfig:
    """Images and annotations in COCO's form; paths are below `root`.

    Attributes:
        root: The data set's folder.
        train_images, validation_images: Folders of images.
        train_annotations, validation_annotations: JSON files.
    """

    root: str = field(metadata=MUTABLE_ON_RESUME)
    train_images: str = "train2017"
    train_annotations: str = "annotations/instances_train2017.json"
    validation_images: str = "val2017"
    validation_annotations: str = "annotations/instances_val2017.json"

    def check_references(self) -> None:
        """UserError for a folder or a file that is not there."""
        require_path(self.root, "data.root")
        for name in ("train_images", "train_annotations", "validation_images", "validation_annotations"):
            require_path(Path(self.root, getattr(self, name)), f"data.{name}")


@dataclass(frozen=True, kw_only=True)
class ResizingConfig:
    """How large images are, and how training varies them (A.2, A.3).

    Attributes:
        short_sides: Of the shorter side in pixels; training draws one, evaluation takes the last.
        long_side: What the longer side may have at most; the shorter is smaller then.
        horizontal_flip: Probability.
        crop: Probability that training first resizes to one of crop_short_sides, whatever the longer side, and cuts a
            part out whose sides lie within crop_sides (DETR's is 0.5).
        crop_short_sides, crop_sides: See crop; pixels.
    """

    short_sides: tuple[int, ...] = (800,)
    long_side: int = 1333
    horizontal_flip: float = 0.5
    crop: float = 0.0
    crop_short_sides: tuple[int, ...] = (400, 500, 600)
    crop_sides: tuple[int, int] = (384, 600)

    def __post_init__(self) -> None:
        sizes = self.short_sides
        require(bool(sizes) and min(sizes) >= 32, f"augmentation.short_sides must be 32 or more, not {list(sizes)}")
        require(
            self.long_side >= max(sizes),
            f"augmentation.long_side {self.long_side} must not be below short_sides {list(sizes)}",
        )
        for name in ("horizontal_flip", "crop"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"augmentation.{name} must lie between 0 and 1, not {value}")
        first, sides = list(self.crop_short_sides), list(self.crop_sides)
        require(bool(first) and min(first) >= 32, f"augmentation.crop_short_sides must be 32 or more, not {first}")
        require(32 <= sides[0] <= sides[1], f"augmentation.crop_sides must ascend from 32 or more, not {sides}")
