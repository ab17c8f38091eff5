"""Images with boxes and masks, and how training varies them together.

A target is a dict; N objects, coordinates in pixels of the image beside it:
  boxes           (N, 4) float32, left, top, right, bottom
  labels          (N,) int64, 0 .. K-1
  segmentations   N of COCO's, in the file's pixels, only where masks are wanted and before a transform; after it
  masks           (N, H, W) uint8
  image_id        the JSON's
  original_size   (height, width) in the file
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from contagg.data.coco.annotations import CocoAnnotations, read_annotations
from contagg.data.coco.config import CocoDataConfig, ResizingConfig
from contagg.data.coco.masks import Segmentation, decoded, to_mask
from contagg.data.decode import read_image
from contagg.data.sampling import KeyedDataset, KeyedIndex, seed_sample
from contagg.errors import UserError

_ANY = 2**31  # no limit to a longer side
_LEAST = 1.0  # pixels: training leaves out what has become thinner

Size = tuple[int, int]
"""Height and width."""
Target = dict[str, Any]
Sample = tuple[Tensor, Target]
Transform = Callable[[Any, Target], Sample]


class CocoImages(Dataset[tuple[tv_tensors.Image, Target]]):
    """Images as they are: uint8 (3, H, W), and their targets without crowds and what has no extent.

    Raises UnreadableSampleError for an image that cannot be read, UserError for one of another size than the JSON says.
    """

    def __init__(
        self, annotations: CocoAnnotations, masks: bool, read: Callable[[Path, str], Image.Image] = read_image
    ) -> None:
        self.annotations, self.masks, self.read = annotations, masks, read

    def __len__(self) -> int:
        return len(self.annotations.images)

    def name(self, index: int) -> str:
        """The image's file."""
        return str(self.annotations.folder / self.annotations.images[index].file_name)

    def __getitem__(self, index: int) -> tuple[tv_tensors.Image, Target]:
        entry = self.annotations.images[index]
        size = (entry.height, entry.width)
        image = as_tensor(self.read(Path(self.name(index)), self.name(index)))
        _check_size(self.name(index), (image.shape[1], image.shape[2]), size)
        objects = [found for found in self.annotations.objects(index) if not found["iscrowd"]]
        boxes = torch.tensor([found["bbox"] for found in objects], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes[:, 0::2].clamp_(0, entry.width)
        boxes[:, 1::2].clamp_(0, entry.height)
        labels = [self.annotations.label(found["category_id"]) for found in objects]
        wide = (boxes[:, 2:] > boxes[:, :2]).all(1)
        target: Target = {
            "boxes": tv_tensors.BoundingBoxes(boxes[wide], format="XYXY", canvas_size=size),
            "labels": torch.tensor(labels, dtype=torch.int64)[wide],
            "image_id": entry.id,
            "original_size": size,
        }
        if self.masks:
            target["segmentations"] = _chosen([found["segmentation"] for found in objects], wide)
        return image, target

    def aspects(self) -> np.ndarray:
        """Width by height of each image."""
        return np.array([image.width / image.height for image in self.annotations.images])


def open_split(data: CocoDataConfig, split: Literal["train", "validation"], masks: bool) -> CocoImages:
    """A recipe's images; `masks` says whether objects need them. Only those of training are laid out."""
    json, folder = (Path(data.root, getattr(data, f"{split}_{part}")) for part in ("annotations", "images"))
    read = partial(read_image, max_pixels=data.max_pixels, bit_depth=data.bit_depth)
    return CocoImages(read_annotations(json, folder, masks, data.clip_boxes), masks and split == "train", read)


def _check_size(name: str, found: Size, expected: Size) -> None:
    if found == expected:
        return
    turned = ""
    if found == expected[::-1]:
        turned = ": they are of the image as it is stored, but its EXIF turns it; annotate it upright"
    raise UserError(
        f"the image {name} is {found[0]} x {found[1]} pixels, its annotations say {expected[0]} x {expected[1]}{turned}"
    )


class TransformedImages(KeyedDataset):
    """Samples by (index, key), as the samplers of `contagg.data.sampling` yield them.

    Of an image that cannot be read another takes the place in training; in evaluation None does, as for IGNORE_INDEX.
    """

    def __getitem__(self, keyed: KeyedIndex) -> Sample | None:  # type: ignore[override]
        index, key = keyed
        image, target = self._read(index, key)
        if not isinstance(target, dict):
            return None
        if key is not None:
            seed_sample(key)
        try:
            return self.transform(image, target)
        except UserError as error:
            raise UserError(f"image {target['image_id']}: {error}") from error

    def __getitems__(self, items: Sequence[KeyedIndex]) -> list[Sample | None]:  # type: ignore[override]
        """A whole batch."""
        return [self[item] for item in items]


def as_tensor(image: Image.Image) -> tv_tensors.Image:
    """uint8 (3, H, W); grey is repeated."""
    return tv_tensors.Image(torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1))


@dataclass(frozen=True)
class View:
    """How an image is shown: mirrored, resized and a part cut out, resized; what is None is left out.

    Attributes:
        original: Its size.
        final: Its size in the end.
        mirrored: Left and right.
        enlarged: The size of the image that `part` is cut out of.
        part: Top, left, height and width of it.
    """

    original: Size
    final: Size
    mirrored: bool = False
    enlarged: Size | None = None
    part: tuple[int, int, int, int] | None = None

    def of(self, value: Any) -> Any:
        """An image, boxes or masks of torchvision's types, as shown; of boxes outside nothing is left."""
        if self.mirrored:
            value = F.horizontal_flip(value)
        if self.part and self.enlarged:
            value = F.crop(F.resize(value, list(self.enlarged), antialias=True), *self.part)
        return F.resize(value, list(self.final), antialias=True)

    def mask(self, segmentation: Segmentation) -> np.ndarray:
        """A checked segmentation of the original as uint8 (H, W) of the final size.

        Polygons are scaled and then filled, so that no mask of the original's size is made: of 60 in a photograph that
        would be a gigabyte. Run lengths are laid out one object at a time.
        """
        if not isinstance(segmentation, list):
            return self.of(tv_tensors.Mask(to_mask(segmentation, self.original)[None]))[0].numpy()
        return decoded([self._moved(np.array(polygon)).tolist() for polygon in segmentation], self.final)

    def _moved(self, polygon: np.ndarray) -> np.ndarray:
        points, size = polygon.astype(float).reshape(-1, 2), np.array(self.original[::-1], float)
        if self.mirrored:
            points[:, 0] = size[0] - points[:, 0]
        if self.part and self.enlarged:
            top, left, height, width = self.part
            points = points * (self.enlarged[::-1] / size) - (left, top)
            size = np.array([width, height], float)
        return (points * (self.final[::-1] / size)).ravel()


def resized(size: Size, short_side: int, long_side: int) -> Size:
    """The size of an image whose shorter side becomes `short_side`, unless the longer would be beyond `long_side`.

    UserError where nothing would be left of the shorter side. (DETR's own rule truncates: up to 3 pixels less.)
    """
    scale = min(short_side / min(size), long_side / max(size))
    height, width = (round(length * scale) for length in size)
    if min(height, width) < 1:
        raise UserError(
            f"an image of {size[0]} x {size[1]} pixels cannot be resized to {long_side} at its longer side: "
            "nothing is left of the shorter; cut it, or raise augmentation.long_side"
        )
    return height, width


def training_transform(config: ResizingConfig) -> Transform:
    """Flip, perhaps cut a part out, resize, and drop boxes that have become thinner than a pixel."""
    return partial(_varied, config)


def evaluation_transform(config: ResizingConfig) -> Transform:
    """Resize to the last of the short sides."""
    return partial(_plain, config)


def _varied(config: ResizingConfig, image: Tensor, target: Target) -> Sample:
    return _shown(draw_view(config, _size(image)), image, target, least=_LEAST)


def _plain(config: ResizingConfig, image: Tensor, target: Target) -> Sample:
    size = _size(image)
    return _shown(View(size, resized(size, config.short_sides[-1], config.long_side)), image, target, least=0)


def _size(image: Tensor) -> Size:
    return image.shape[-2], image.shape[-1]


def draw_view(config: ResizingConfig, size: Size) -> View:
    """A random view of an image of `size`, drawn from torch's generator."""
    mirrored = bool(torch.rand(1) < config.horizontal_flip)
    enlarged = part = None
    extent = size
    if config.crop and torch.rand(1) < config.crop:
        enlarged = resized(size, _drawn(config.crop_short_sides), _ANY)
        (top, height), (left, width) = (_part(length, config.crop_sides) for length in enlarged)
        part, extent = (top, left, height, width), (height, width)
    final = resized(extent, _drawn(config.short_sides), config.long_side)
    return View(size, final, mirrored, enlarged, part)


def _drawn(values: Sequence[int]) -> int:
    return values[int(torch.randint(len(values), ()))]


def _part(length: int, sides: tuple[int, int]) -> tuple[int, int]:
    """Where a part begins, and its length: drawn between two limits, or all of it if that is less."""
    least, most = (min(side, length) for side in sides)
    side = int(torch.randint(least, most + 1, ()))
    return int(torch.randint(length - side + 1, ())), side


def _shown(view: View, image: Tensor, target: Target, least: float) -> Sample:
    """An image and its target in a view; objects narrower or lower than `least` pixels are left out."""
    shown = dict(target)
    if "boxes" in target:
        boxes = view.of(target["boxes"]).as_subclass(Tensor)
        kept = (boxes[:, 2:] - boxes[:, :2] >= least).all(1)
        shown |= {"boxes": boxes[kept]} | {key: target[key][kept] for key in ("labels",) if key in target}
    if "segmentations" in target:
        masks = [view.mask(some) for some in _chosen(shown.pop("segmentations"), kept)]
        shown["masks"] = torch.from_numpy(np.stack(masks) if masks else np.zeros((0, *view.final), np.uint8))
    return view.of(image).as_subclass(Tensor), shown


def _chosen(values: Sequence[Any], kept: Tensor) -> list[Any]:
    return [value for value, keep in zip(values, kept.tolist(), strict=True) if keep]
