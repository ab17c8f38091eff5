"""The views of an image that DINO compares: two global crops, and local ones.

Shapes: B images of C channels, h x w pixels; a crop has S x S.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms import v2

from contagg.data.config import CropsConfig
from contagg.data.sampling import uniform
from contagg.data.transforms import per_channel, to_mode

GLOBAL_CROPS = 2
_RATIO = (3 / 4, 4 / 3)
_TRIALS = 10
_DRAWS = 64  # random numbers set aside for a crop, so that no two crops share one
_SOLARIZED = 128 / 255


def make_crops(
    config: CropsConfig, data: object, input_size: tuple[int, int, int], mean: Sequence[float], std: Sequence[float]
) -> Callable[[Image.Image], list[Tensor]]:
    """The transform from an image to its crops, each (C, S, S), the global ones first.

    Args:
        data: The images: grey ones in memory are varied many at once.
        input_size: (C, S, S) of global crops.
        mean, std: Of pixels in [0, 1], as `per_channel` takes them.
    """
    gather = getattr(data, "gather", None)
    grey = gather is not None and gather(np.array([0])).ndim == 3
    kind = GreyCrops if grey and input_size[0] == 1 else PhotoCrops
    channels = input_size[0]
    return kind(config, input_size, per_channel(mean, channels), per_channel(std, channels))


class PhotoCrops:
    """PIL image -> crops, on torchvision's transforms; all randomness is drawn from torch's generator."""

    def __init__(
        self, config: CropsConfig, input_size: tuple[int, int, int], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        self.to_mode = to_mode(input_size[0])
        finish = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
        solarize = v2.RandomSolarize(128, config.solarize)
        size, local = input_size[-1], config.local_size
        self.views = [
            v2.Compose([*_colours(config, size, config.global_scale, 0), *finish]),
            v2.Compose([*_colours(config, size, config.global_scale, 1), solarize, *finish]),
            *[v2.Compose([*_colours(config, local, config.local_scale, 2), *finish])] * config.local_count,
        ]

    def __call__(self, image: Image.Image) -> list[Tensor]:
        image = self.to_mode(image)
        return [view(image) for view in self.views]


def _colours(config: CropsConfig, size: int, scale: tuple[float, float], kind: int) -> list[Callable[..., Image.Image]]:
    return [
        v2.RandomResizedCrop(size, scale, _RATIO, v2.InterpolationMode.BICUBIC),
        v2.RandomHorizontalFlip(config.horizontal_flip),
        v2.RandomApply([v2.ColorJitter(*config.jitter)], config.jitter_probability),
        v2.RandomGrayscale(config.grey),
        v2.RandomApply([Blur(config.blur_sigma)], config.blur[kind]),
    ]


class Blur(torch.nn.Module):
    """Pillow's Gaussian blur of a random width, as in the original; torchvision's needs a size of kernel."""

    def __init__(self, sigma: tuple[float, float]) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(torch.empty(1).uniform_(*self.sigma).item()))


class GreyCrops:
    """Grey images in memory -> crops, a batch at a time; PhotoCrops' views, as a run on a CPU can afford them.

    Colours need no saturation, hue or grey. Everything about a crop is drawn from its image's key. Resizing is bicubic,
    by torch's kernel (a = -0.75) and not Pillow's (-0.5): crops have 4 to 8 % more gradient energy, see docs/speed.md.
    """

    def __init__(
        self, config: CropsConfig, input_size: tuple[int, int, int], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        self.config, self.size = config, input_size[-1]
        self.mean, self.std = mean[0], std[0]

    def __call__(self, image: Image.Image) -> list[Tensor]:
        """One image, with a key drawn from torch's generator."""
        key = torch.randint(0, 2**62, (1,)).numpy().astype(np.uint64)
        return [crop[0] for crop in self.batch(torch.from_numpy(np.array(image.convert("L")))[None], key)]

    def batch(self, images: Tensor, keys: np.ndarray) -> list[Tensor]:
        """Images uint8 (B, h, w), keys (B,) uint64 -> crops, each (B, 1, S, S)."""
        pixels = images[:, None].float() / 255
        count = GLOBAL_CROPS + self.config.local_count
        return [self._crop(pixels, _Draws(keys, number), number) for number in range(count)]

    def _crop(self, pixels: Tensor, draws: "_Draws", number: int) -> Tensor:
        config = self.config
        is_global = number < GLOBAL_CROPS
        size, scale = (self.size, config.global_scale) if is_global else (config.local_size, config.local_scale)
        crops = cut(pixels, size, scale, config.horizontal_flip, draws)
        jittered = draws.chance(config.jitter_probability)
        for vary, strength in ((_brightness, config.jitter[0]), (_contrast, config.jitter[1])):
            factor = draws.between(max(0.0, 1 - strength), 1 + strength)
            crops = vary(crops, torch.where(jittered, factor, 1.0).view(-1, 1, 1, 1))
        blurred = draws.chance(config.blur[min(number, GLOBAL_CROPS)])
        sigma = draws.between(*config.blur_sigma)
        if blurred.any():
            crops[blurred] = blur(crops[blurred], sigma[blurred])
        if number == 1:
            inverted = draws.chance(config.solarize).view(-1, 1, 1, 1) & (crops >= _SOLARIZED)
            crops = torch.where(inverted, 1 - crops, crops)
        return (crops - self.mean) / self.std


class _Draws:
    """Numbers that belong to a crop: each call takes the next one of every key."""

    def __init__(self, keys: np.ndarray, number: int) -> None:
        self.keys, self.next = keys, number * _DRAWS

    def between(self, low: float, high: float) -> Tensor:
        """(B,) in [low, high)."""
        self.next += 1
        return torch.from_numpy(low + (high - low) * uniform(self.keys, self.next)).float()

    def chance(self, probability: float) -> Tensor:
        """(B,), true with that probability."""
        return self.between(0, 1) < probability


def cut(pixels: Tensor, size: int, scale: tuple[float, float], flip: float, draws: _Draws) -> Tensor:
    """A part of each image (B, 1, h, w) of a random area and shape, flipped or not, resized to (B, 1, size, size)."""
    across, down = _fitting(pixels.shape[-2:], scale, draws)
    right, below = draws.between(-1, 1) * (1 - across), draws.between(-1, 1) * (1 - down)
    mirrored = torch.where(draws.chance(flip), -across, across)
    zero = torch.zeros_like(across)
    corners = torch.stack([mirrored, zero, right, zero, down, below], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(corners, [len(pixels), 1, size, size], align_corners=False)
    return F.grid_sample(pixels, grid, mode="bicubic", padding_mode="border", align_corners=False).clamp(0, 1)


def _fitting(sides: Sequence[int], scale: tuple[float, float], draws: _Draws) -> tuple[Tensor, Tensor]:
    """Width and height (B,) of a part of each image, as fractions; the whole where no trial fits, as in torchvision."""
    height, width = sides
    across, down = torch.ones(2, len(draws.keys))
    for _ in range(_TRIALS):  # of the trials that fit any will do: the last stays
        area = draws.between(*scale)
        shape = draws.between(math.log(_RATIO[0]), math.log(_RATIO[1])).exp() * height / width
        fits = (area * shape <= 1) & (area / shape <= 1)
        across, down = torch.where(fits, (area * shape).sqrt(), across), torch.where(fits, (area / shape).sqrt(), down)
    return across, down


def blur(crops: Tensor, sigma: Tensor) -> Tensor:
    """Each of the crops (B, 1, S, S) with a Gaussian of its own width (B,), mirrored at the edges."""
    radius = min(math.ceil(3 * float(sigma.max())), crops.shape[-1] - 1)
    offsets = torch.arange(-radius, radius + 1)
    kernels = torch.softmax(-(offsets**2) / (2 * sigma[:, None] ** 2), dim=1)
    stacked = F.pad(crops.transpose(0, 1), [radius] * 4, mode="reflect")
    for shape in ((-1, 1, 1, 2 * radius + 1), (-1, 1, 2 * radius + 1, 1)):
        stacked = F.conv2d(stacked, kernels.view(shape), groups=len(crops))
    return stacked.transpose(0, 1)


def _brightness(crops: Tensor, factor: Tensor) -> Tensor:
    return (crops * factor).clamp(0, 1)


def _contrast(crops: Tensor, factor: Tensor) -> Tensor:
    mean = crops.mean(dim=(1, 2, 3), keepdim=True)
    return (mean + (crops - mean) * factor).clamp(0, 1)
