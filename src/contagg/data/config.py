"""What a recipe says about images: which, and how they are varied. Needs no torch: a recipe is checked first."""

import os
import re
from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

from contagg.config import (
    MUTABLE_ON_RESUME,
    Count,
    Fraction,
    FractionInterval,
    Interval,
    NonNegative,
    Probability,
    Range,
    Whole,
    require,
    section,
)
from contagg.errors import nearest
from contagg.files import is_folder

NAMED_DATA = ("digits", "fashion-mnist", "shifted-fashion-mnist", "cifar10", "folder", "tar", "parquet")
STREAM_PREFIXES = ("wds/", "hfids/", "tfds/")
PREFIXES = ("hfds/", *STREAM_PREFIXES)

# timm's own words for a policy: rand-m9-mstd0.5-inc1, or a fixed policy with noise such as original-mstd0.5.
_NOISE = r"mstd\d+(\.\d+)?"
_RAND = re.compile(rf"rand(-(m\d+|n[1-9]\d*|p[01](\.\d+)?|{_NOISE}|mmax\d+|inc[01]|t(weights|3a|3aw)))*")
_POLICY = re.compile(rf"(v0|v0r|original|originalr|3a)(-{_NOISE})?")


LARGEST_MAX_PIXELS = 178_956_970
"""Twice Pillow's own limit, beyond which it refuses."""
MaxPixels = Annotated[int, Range(1, LARGEST_MAX_PIXELS)]
BitDepth = Annotated[int, Range(9, 16)]


@section("data.")
class DataConfig:
    """Which images to learn from.

    Attributes:
        name: `digits` (scikit-learn's, 8x8 grey), `fashion-mnist`, `shifted-fashion-mnist` (each image moved by up to 6
            pixels and perhaps mirrored), `cifar10`, `folder` (train/ and val/, one folder per class), `tar` (as
            train.tar and val.tar or folders of one tar per class), `parquet` (train*.parquet and val*.parquet with
            columns `image` and `label`), `hfds/NAME` (Hugging Face; a name on the hub or a folder), and as streams
            `wds/` (WebDataset) and, whose exact resume is not promised, `hfids/NAME` and `tfds/NAME`.
        root: Where the data lie. For `hfds/` and `hfids/` the cache, for `wds/` the folder of shards.
        train_split: The training split's name, for `hfds/` and streams; for `wds/` `shard-{000..099}.tar|100000`, the
            number being that of the images, or a split in the folder's _info.json.
        validation_split: Likewise that of the split to judge by.
        validation_fraction: Part of each class, chosen by a hash of the images' names, that is held out where a
            folder, tar or parquet has no val, valid, validation or test.
        image_key: What images are called in tables and shards, where not `image`.
        label_key: What labels are called there, where not `label`.
        classes: How many classes there are, where the data do not name them.
        max_pixels: Width times height of the largest image that is decoded: a file of a few KB may hold any number.
        bit_depth: Of grey images of more than 8 bits, 9 to 16; null takes what a TIFF says, else 16.
        cache_gb: GiB of decoded images that each process that reads keeps of each split; 0 decodes them in every epoch.
        download: Fetch CIFAR-10 where it is missing. (`hfds/`, `hfids/` and `tfds/` fetch by nature.)
        fraction: Part of the training images of each class to use, chosen by a hash of their names, so that a smaller
            part lies within a larger one and every machine takes the same (Table 3).
        max_corrupt_fraction: Part of the images that may be unreadable. Each is named; in training another takes its
            place, in evaluation it counts nowhere. Beyond this training stops.
    """

    name: str = "folder"
    root: str | None = field(default=None, metadata=MUTABLE_ON_RESUME)
    train_split: str = "train"
    validation_split: str = "validation"
    validation_fraction: Annotated[float, Range(0, 1, above=True, below=True)] = 0.2
    image_key: str | None = None
    label_key: str | None = None
    classes: Annotated[int, Range(2)] | None = None
    cache_gb: NonNegative = field(default=0.0, metadata=MUTABLE_ON_RESUME)
    download: bool = field(default=False, metadata=MUTABLE_ON_RESUME)
    max_pixels: MaxPixels = 2**26
    bit_depth: BitDepth | None = None
    fraction: Fraction = 1.0
    max_corrupt_fraction: Annotated[float, Range(0, 0.5)] = field(default=0.001, metadata=MUTABLE_ON_RESUME)

    def __post_init__(self) -> None:
        prefixed = any(self.name.lower().startswith(prefix) and len(self.name) > len(prefix) for prefix in PREFIXES)
        is_shards = self.name.lower() == "wds/"
        known = (*NAMED_DATA, "wds/", *(prefix + "NAME" for prefix in PREFIXES if prefix != "wds/"))
        require(
            self.name in NAMED_DATA or prefixed or is_shards,
            f"data.name: unknown data set {self.name!r}.{nearest(self.name, NAMED_DATA)} Known: {', '.join(known)}",
        )
        require(not self.is_stream or self.fraction == 1, f"data.fraction must be 1 for the stream {self.name!r}")
        require(not (self.is_stream and self.cache_gb), f"data.cache_gb must be 0 for the stream {self.name!r}")

    def folder(self, default: str | None = None, must_exist: bool = True) -> Path:
        """`root`, or `default`, as a folder. UserError if none is given or it is not there."""
        text = self.root or default
        require(text is not None, f"data.root must say where the data set {self.name!r} lies")
        folder = Path(os.path.expanduser(str(text)))  # noqa: PTH111, as Path.expanduser raises for a home of nobody
        require(is_folder(folder) or not must_exist, f"data.root {folder} is no folder")
        return folder

    def check_references(self) -> None:
        """UserError if the data should lie in a folder that is not there."""
        if self.name in ("folder", "tar", "parquet", "cifar10", "wds/") or (self.root and self.name in NAMED_DATA):
            self.folder(must_exist=not self.download)

    @property
    def is_stream(self) -> bool:
        """Whether images come in a stream, so that none can be asked for by number."""
        return self.name.lower().startswith(STREAM_PREFIXES)


@section("augmentation.")
class AugmentationConfig:
    """How training images are varied; the defaults are DeiT's, but for its three views per epoch (`repeats: 3`).

    Attributes:
        crop: `resized` cuts a random part and resizes it; `padded`, for small images, resizes the whole image, pads it
            and cuts the size back. Evaluation cuts the centre for the first and takes the whole image for the second.
        scale: Range of the part's area by the image's, for `resized`.
        ratio: Range of the part's width by its height, for `resized`.
        padding: Pixels on each side, for `padded`.
        horizontal_flip: Probability.
        auto_augment: RandAugment in timm's words (`rand-m9-mstd0.5-inc1`), or `original`, `v0`, `3a`; null is none.
        color_jitter: Brightness, contrast and saturation. timm, and so DeiT, leaves it out where auto_augment is on.
        erasing: Probability that a rectangle is erased.
        erasing_mode: With noise (`pixel`) or with the mean (`const`).
        interpolation: Of every resizing.
        crop_fraction: Part of the resized image that evaluation keeps, for `resized`.
        mixup: The alpha of mixup's beta distribution; 0 is off.
        cutmix: The alpha of cutmix's; 0 is off.
        mix_probability: That a batch is mixed.
        cutmix_probability: That it is by cutmix, where both are on.
        repeats: Views of an image that follow each other; an epoch keeps its length and shows fewer images.
    """

    crop: Literal["resized", "padded"] = "resized"
    scale: FractionInterval = (0.08, 1.0)
    ratio: Interval = (3 / 4, 4 / 3)
    padding: Whole = 4
    horizontal_flip: Probability = 0.5
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    color_jitter: NonNegative = 0.4
    erasing: Probability = 0.25
    erasing_mode: Literal["pixel", "const"] = "pixel"
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bicubic"
    crop_fraction: Fraction = 0.875
    mixup: NonNegative = 0.8
    cutmix: NonNegative = 1.0
    mix_probability: Probability = 1.0
    cutmix_probability: Probability = 0.5
    repeats: Count = 1

    def __post_init__(self) -> None:
        word = self.auto_augment
        require(
            word is None or bool(_RAND.fullmatch(word) or _POLICY.fullmatch(word)),
            f"augmentation.auto_augment: unknown policy {word!r}. Right are such as 'rand-m9-mstd0.5-inc1', "
            "'original', 'originalr', 'v0', 'v0r', '3a', the latter with '-mstd0.5', or null",
        )

    @property
    def mixes(self) -> bool:
        """Whether batches are mixed, so that targets become distributions."""
        return self.mix_probability > 0 and (self.mixup > 0 or self.cutmix > 0)

    def check_batch(self, batch_size: int) -> None:
        """UserError for an odd batch if batches are mixed: each image's partner stands as far from the other end."""
        require(
            not self.mixes or batch_size % 2 == 0,
            f"optimization.batch_size {batch_size} is odd, but augmentation.mixup and cutmix pair the images of a "
            "batch: take an even one, or set both to 0",
        )


@section("crops.")
class CropsConfig:
    """The views of an image: two global ones, of model.image_size, and local ones. Three values: each global, local.

    Grey images in memory are varied many at once, in tensors; all others one by one, in Pillow.

    Attributes:
        local_size: Pixels on a side of a local crop.
        local_count: How many local crops there are.
        global_scale: Range of a global crop's part of the image's area.
        local_scale: Likewise that of a local crop.
        horizontal_flip: Probability that a crop is mirrored.
        jitter: How far brightness, contrast, saturation and hue are changed.
        jitter_probability: That they are.
        grey: Probability that a crop loses its colours.
        blur: Probability for the first and the second global crop and for local ones.
        blur_sigma: Range, in pixels of the crop.
        solarize: Probability for the second global crop.
    """

    local_size: Count = 96
    local_count: Whole = 8
    global_scale: FractionInterval = (0.4, 1.0)
    local_scale: FractionInterval = (0.05, 0.4)
    horizontal_flip: Probability = 0.5
    jitter: tuple[NonNegative, NonNegative, NonNegative, Annotated[float, Range(0, 0.5)]] = (0.4, 0.4, 0.2, 0.1)
    jitter_probability: Probability = 0.8
    grey: Probability = 0.2
    blur: tuple[Probability, Probability, Probability] = (1.0, 0.1, 0.5)
    blur_sigma: Interval = (0.1, 2.0)
    solarize: Probability = 0.2
