"""What happens to an image between its file and the network, on timm's transforms.

Shapes: B images of C channels (1 or 3), H x W pixels.
"""

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import Mixup, create_transform
from timm.data.auto_augment import AutoAugment, RandAugment, posterize
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms import Compose, InterpolationMode
from torchvision.transforms.v2.functional import resize, rgb_to_grayscale

from contagg.data.config import AugmentationConfig
from contagg.data.sampling import seed_sample, uniform
from contagg.errors import UserError, plural

Transform = Callable[[Image.Image], Tensor]
Size = tuple[int, int, int]

_MODES = {1: "L", 3: "RGB"}


def train_transform(
    augmentation: AugmentationConfig, input_size: Size, mean: Sequence[float], std: Sequence[float]
) -> Transform:
    """PIL image -> float tensor (C, H, W), varied at random from Python's, NumPy's and torch's generators.

    The result has a `batch` method, see PaddedCrop, where images need not go through Pillow.

    Args:
        input_size: (C, H, W) of the network.
        mean, std: A channel's, of pixels in [0, 1]; three are averaged for C = 1.
    """
    channels = input_size[0]
    mean, std = per_channel(mean, channels), per_channel(std, channels)
    stages = create_transform(
        input_size,
        is_training=True,
        scale=augmentation.scale,
        ratio=augmentation.ratio,
        hflip=augmentation.horizontal_flip,
        color_jitter=augmentation.color_jitter or None,  # type: ignore[arg-type]
        auto_augment=augmentation.auto_augment,
        interpolation=augmentation.interpolation,
        mean=mean,
        std=std,
        re_prob=augmentation.erasing,
        re_mode=augmentation.erasing_mode,
        separate=True,
    )
    cut, vary, finish = (stage.transforms for stage in stages)
    _allow_black(vary)
    if augmentation.crop == "resized":
        return Compose([to_mode(channels), *cut, *vary, *finish])
    crop = PaddedCrop(augmentation, input_size, mean, std, training=True)
    return Compose([to_mode(channels), *vary, crop]) if vary else crop


def evaluation_transform(
    augmentation: AugmentationConfig, input_size: Size, mean: Sequence[float], std: Sequence[float]
) -> Transform:
    """PIL image -> float tensor (C, H, W), the same each time.

    Args:
        augmentation: Of training, which says how evaluation crops and resizes.
        input_size, mean, std: As in train_transform.
    """
    channels = input_size[0]
    mean, std = per_channel(mean, channels), per_channel(std, channels)
    if augmentation.crop == "padded":
        return PaddedCrop(augmentation, input_size, mean, std, training=False)
    steps = create_transform(
        input_size,
        interpolation=augmentation.interpolation,
        crop_pct=augmentation.crop_fraction,
        mean=mean,
        std=std,
    )
    return Compose([to_mode(channels), *steps.transforms])


def mixup(augmentation: AugmentationConfig, num_classes: int, label_smoothing: float) -> Mixup | None:
    """timm's Mixup, which turns (images, labels) of an even batch into mixed images and distributions; None if off."""
    if not augmentation.mixes:
        return None
    return Mixup(
        mixup_alpha=augmentation.mixup,
        cutmix_alpha=augmentation.cutmix,
        prob=augmentation.mix_probability,
        switch_prob=augmentation.cutmix_probability,
        label_smoothing=label_smoothing,
        num_classes=num_classes,
    )


class PaddedCrop:
    """For small images: resize the whole one, pad it, cut the size back anywhere, flip, normalize, erase.

    In training each is drawn from a sample's key; without `training` the image is only resized and normalized.
    """

    def __init__(
        self,
        augmentation: AugmentationConfig,
        input_size: Size,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        training: bool,
    ) -> None:
        self.channels, *size = input_size
        self.size = tuple(size)
        self.training = training
        self.padding, self.flip = augmentation.padding, augmentation.horizontal_flip
        self.interpolation = InterpolationMode(augmentation.interpolation)
        self.scale = 1 / (255 * torch.tensor(std).view(-1, 1, 1))
        self.shift = -(torch.tensor(mean) / torch.tensor(std)).view(-1, 1, 1)
        erasing = augmentation.erasing
        self.erase = RandomErasing(erasing, mode=augmentation.erasing_mode, device="cpu") if erasing else None

    def __call__(self, image: Image.Image) -> Tensor:
        """One image, with a key drawn from Python's generator."""
        image = to_mode(self.channels)(image)
        key = np.array([random.getrandbits(64)], dtype=np.uint64) if self.training else None
        return self.batch(torch.from_numpy(np.array(image))[None], key)[0]

    def batch(self, images: Tensor, keys: np.ndarray | None) -> Tensor:
        """Many images: uint8 (B, h, w) grey or (B, h, w, 3), keys (B,) uint64 -> float (B, C, H, W)."""
        images = self._channels_first(images)
        if images.shape[-2:] != self.size:
            images = resize(images, list(self.size), self.interpolation)
        if not self.training or keys is None:
            return self._normalized(images)
        if self.padding:
            images = self._cut(images, keys)
        if self.flip:
            flipped = torch.from_numpy(uniform(keys, 2) < self.flip).view(-1, 1, 1, 1)
            images = torch.where(flipped, images.flip(-1), images)
        images = self._normalized(images)
        if self.erase:
            for image, key in zip(images, keys.tolist(), strict=True):
                seed_sample(key)
                self.erase(image)
        return images

    def _normalized(self, images: Tensor) -> Tensor:
        return images.float().mul(self.scale).add_(self.shift)

    def _channels_first(self, images: Tensor) -> Tensor:
        if images.ndim == 3:
            return images[:, None]  # normalizing makes C channels of one
        images = images.permute(0, 3, 1, 2)
        return rgb_to_grayscale(images) if self.channels == 1 else images

    def _cut(self, images: Tensor, keys: np.ndarray) -> Tensor:
        """A window of the size out of each padded image."""
        height, width = self.size
        top, left = (
            torch.from_numpy((uniform(keys, draw) * (2 * self.padding + 1)).astype(np.int64)) for draw in (0, 1)
        )
        rows = (top[:, None] + torch.arange(height))[:, None, :, None]
        columns = (left[:, None] + torch.arange(width))[:, None, None, :]
        which, channel = torch.arange(len(images)).view(-1, 1, 1, 1), torch.arange(images.shape[1]).view(-1, 1, 1)
        return pad(images, [self.padding] * 4)[which, channel, rows, columns]


def to_mode(channels: int) -> Callable[[Image.Image], Image.Image]:
    """What makes an image grey or RGB, as a network of 1 or of 3 channels takes it. UserError for any other number."""
    if channels not in _MODES:
        raise UserError(f"images have 1 or 3 channels, but the network takes {channels}")
    return partial(_converted, mode=_MODES[channels])


def _converted(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)


def per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Means or deviations for images of `channels`: one value serves all of them, and the average of several one."""
    if len(values) == channels:
        return tuple(values)
    if channels == 1:
        return (sum(values) / len(values),)
    if len(values) == 1:
        return tuple(values) * channels
    raise UserError(f"mean and std must have 1 or {plural(channels, 'value')}, not {len(values)}")


def _allow_black(steps: Sequence[Any]) -> None:
    """Let posterizing keep 0 bits, which timm asks for at the largest magnitude and Pillow 13 refuses."""
    for step in steps:
        operations = step.ops if isinstance(step, RandAugment) else []
        if isinstance(step, AutoAugment):
            operations = [operation for policy in step.policy for operation in policy]
        for operation in operations:
            if operation.aug_fn is posterize:
                operation.aug_fn = _posterize


def _posterize(image: Image.Image, bits_to_keep: int, **options: Any) -> Image.Image:
    return Image.new(image.mode, image.size) if bits_to_keep == 0 else posterize(image, bits_to_keep, **options)
