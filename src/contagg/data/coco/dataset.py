"""Images with boxes and masks, and how training varies them together (torchvision's transforms v2).

A target is a dict; N objects, coordinates in pixels of the image beside it:
  boxes           (N, 4) float32, left, top, right, bottom
  labels          (N,) int64, 0 .. K-1
  masks           (N, H, W) uint8, only where masks are wanted
  image_id        int, the JSON's
  original_size   (height, width) in the file
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from contagg.data.coco.annotations import CocoAnnotations, ImageEntry
from contagg.data.coco.config import ResizingConfig
from contagg.data.coco.masks import to_mask
from contagg.data.decode import open_image
from contagg.data.sampling import IGNORE_INDEX, KeyedIndex, seed_sample
from contagg.errors import UserError

_ANY = 2**31  # no limit to a longer side

Target = dict[str, Any]
Sample = tuple[Tensor, Target]
Transform = Callable[[Any, Target], Sample]


class CocoImages(Dataset[tuple[tv_tensors.Image, Target]]):
    """Images as they are: uint8 (3, H, W), and their targets without crowds."""

    def __init__(self, annotations: CocoAnnotations, masks: bool) -> None:
        self.annotations, self.masks = annotations, masks

    def __len__(self) -> int:
        return len(self.annotations.images)

    def __getitem__(self, index: int) -> tuple[tv_tensors.Image, Target]:
        entry = self.annotations.images[index]
        image = read_image(self.annotations.folder / entry.file_name, (entry.height, entry.width))
        objects = [thing for thing in self.annotations.objects(index) if not thing["iscrowd"]]
        size = (entry.height, entry.width)
        boxes = torch.tensor([thing["bbox"] for thing in objects], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes[:, 0::2].clamp_(0, entry.width)
        boxes[:, 1::2].clamp_(0, entry.height)
        target: Target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
            "labels": torch.tensor(
                [self.annotations.label(thing["category_id"]) for thing in objects], dtype=torch.int64
            ),
            "image_id": entry.id,
            "original_size": size,
        }
        if self.masks:
            target["masks"] = tv_tensors.Mask(self._masks(objects, entry))
        return image, target

    def _masks(self, objects: Sequence[dict[str, Any]], entry: ImageEntry) -> Tensor:
        size = (entry.height, entry.width)
        masks = np.zeros((len(objects), *size), np.uint8)
        for mask, thing in zip(masks, objects, strict=True):
            try:
                mask[:] = to_mask(thing["segmentation"], size)
            except UserError as error:
                raise UserError(f"annotation {thing['id']} of image {entry.file_name}: {error}") from error
        return torch.from_numpy(masks)

    def aspects(self) -> np.ndarray:
        """Width by height of each image."""
        return np.array([image.width / image.height for image in self.annotations.images])


class TransformedImages(Dataset[Sample | None]):
    """Samples by (index, key), as the samplers of `contagg.data.sampling` yield them; None for IGNORE_INDEX."""

    def __init__(self, images: Any, transform: Transform) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, keyed: KeyedIndex) -> Sample | None:
        index, key = keyed
        if index == IGNORE_INDEX:
            return None
        image, target = self.images[index]
        if key is not None:
            seed_sample(key)
        try:
            return self.transform(image, target)
        except UserError as error:
            raise UserError(f"image {target['image_id']}: {error}") from error


def read_image(path: Path, size: tuple[int, int] | None = None) -> tv_tensors.Image:
    """An image file as uint8 (3, H, W): as `contagg.data.decode` reads it, upright; grey is repeated.

    Raises:
        UserError: it is missing, unreadable, or not of `size` (height, width).
    """
    image = open_image(path).convert("RGB")
    if size is not None and (image.height, image.width) != tuple(size):
        turned = (image.width, image.height) == tuple(size)
        why = ": they are of the image before it is turned upright, as its EXIF says, or their sides are swapped"
        raise UserError(
            f"the image {path} is {image.height} x {image.width} pixels, its annotations say {size[0]} x {size[1]}"
            + (why if turned else "")
        )
    return tv_tensors.Image(torch.from_numpy(np.array(image)).permute(2, 0, 1))


class ShortestSide(torch.nn.Module):
    """Resize an image and its target: the shorter side to one of some sizes, the longer to no more than a limit."""

    def __init__(self, short_sides: Sequence[int], long_side: int) -> None:
        super().__init__()
        self.short_sides, self.long_side = list(short_sides), long_side

    def forward(self, image: Tensor, target: Target) -> Sample:
        """UserError for an image so long that nothing would be left of its shorter side."""
        height, width = image.shape[-2:]
        chosen = self.short_sides[int(torch.randint(len(self.short_sides), ()))]
        scale = min(chosen / min(height, width), self.long_side / max(height, width))
        size = [round(length * scale) for length in (height, width)]
        if min(size) < 1:
            raise UserError(
                f"an image of {height} x {width} pixels cannot be resized to {self.long_side} at its longer side: "
                "nothing is left of the shorter; cut it, or raise augmentation.long_side"
            )
        return v2.Resize(size, antialias=True)(image, target)


class RandomPart(v2.Transform):
    """Cut a part out of an image and its target: each side is drawn between two limits, or is the image's if less."""

    def __init__(self, sides: tuple[int, int]) -> None:
        super().__init__()
        self.sides = sides

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Where and how large."""
        place = []
        for length in flat_inputs[0].shape[-2:]:
            least, most = (min(side, length) for side in self.sides)
            side = int(torch.randint(least, most + 1, ()))
            place.append((int(torch.randint(length - side + 1, ())), side))
        (top, height), (left, width) = place
        return {"top": top, "left": left, "height": height, "width": width}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Boxes are cut too; of those outside nothing is left."""
        return self._call_kernel(v2.functional.crop, inpt, **params)


def training_transform(config: ResizingConfig) -> Transform:
    """Flip, perhaps cut a part out, resize, and drop boxes that have become thinner than a pixel."""
    part = v2.Compose([ShortestSide(config.crop_short_sides, _ANY), RandomPart(config.crop_sides)])
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(config.horizontal_flip),
            *([v2.RandomApply([part], config.crop)] if config.crop else []),
            ShortestSide(config.short_sides, config.long_side),
            v2.SanitizeBoundingBoxes(labels_getter=_of_objects),
        ]
    )


def evaluation_transform(config: ResizingConfig) -> Transform:
    """Resize to the last of the short sides."""
    return ShortestSide(config.short_sides[-1:], config.long_side)


def _of_objects(inputs: Any) -> tuple[Tensor, ...]:
    """What must lose the entries of dropped boxes too."""
    _, target = inputs
    return tuple(target[key] for key in ("labels", "masks") if key in target)
