"""What the crops of an image are: their sizes, their chances, and that a key decides them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from photographs import piece
from PIL import Image
from torchvision.transforms.v2.functional import gaussian_blur

from contagg.data.config import CropsConfig
from contagg.data.crops import GreyCrops, PhotoCrops, _Draws, _fitting, blur, make_crops
from contagg.data.datasets import MemoryImages
from contagg.data.sampling import KeyedDataset

PLAIN = CropsConfig(
    local_size=16,
    local_count=3,
    global_scale=(1, 1),
    local_scale=(1, 1),
    horizontal_flip=0,
    jitter_probability=0,
    grey=0,
    blur=(0, 0, 0),
    solarize=0,
)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def photo(height: int = 61, width: int = 61) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [np.sin(rows / 5) + np.cos(columns / 7), rows / height, columns / width]
    return Image.fromarray((np.stack(waves, axis=2) * 60 + 100).clip(0, 255).astype(np.uint8))


def crops_of(config: CropsConfig, image: Image.Image | None = None) -> list[torch.Tensor]:
    return PhotoCrops(config, (3, 32, 32), (0, 0, 0), (1, 1, 1))(image or photo())


def grey(config: CropsConfig, images: torch.Tensor, seed: int = 0) -> list[torch.Tensor]:
    keys = np.random.default_rng(seed).integers(0, 2**63, len(images), dtype=np.uint64)
    return GreyCrops(config, (1, 32, 32), (0.0,), (1.0,)).batch(images, keys)


def test_the_originals_crops() -> None:
    crops = PhotoCrops(CropsConfig(), (3, 224, 224), MEAN, STD)(photo(250, 300))
    assert [tuple(crop.shape) for crop in crops] == [(3, 224, 224)] * 2 + [(3, 96, 96)] * 8


def test_without_variation_a_crop_is_the_normalized_image() -> None:
    image = photo()
    crops = PhotoCrops(PLAIN, (3, 61, 61), MEAN, STD)(image)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    expected = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(crops[0], expected)


def test_photos_are_resized_bicubically() -> None:
    wanted = np.array(photo().resize((32, 32), Image.Resampling.BICUBIC))
    torch.testing.assert_close(crops_of(PLAIN)[0], torch.from_numpy(wanted).permute(2, 0, 1) / 255)


@pytest.mark.parametrize("kind", ["photo", "grey"])
def test_parts_have_their_own_areas_and_shapes_of_three_to_four(kind: str) -> None:
    """Cut out of two ramps, each crop says how wide and how high it is."""
    side, draws = 41, 200
    rows, columns = np.mgrid[0:side, 0:side].astype(np.uint8) * 6
    config = replace(PLAIN, global_scale=(0.4, 0.5), local_scale=(0.1, 0.2), local_count=1)
    torch.manual_seed(0)
    if kind == "photo":
        crops = PhotoCrops(config, (3, 32, 32), (0.0,) * 3, (1.0,) * 3)
        drawn = [crops(Image.fromarray(np.stack([columns, rows, rows], 2))) for _ in range(draws)]
        found = [torch.stack([views[number] for views in drawn])[:, :2] for number in range(3)]
    else:
        keys = np.arange(draws, dtype=np.uint64)
        across, down = (
            GreyCrops(config, (1, 32, 32), (0.0,), (1.0,)).batch(torch.from_numpy(ramp).expand(draws, -1, -1), keys)
            for ramp in (columns, rows)
        )
        found = [torch.cat(views, 1) for views in zip(across, down, strict=True)]
    for number, (low, high) in enumerate([(0.4, 0.5), (0.4, 0.5), (0.1, 0.2)]):
        ramps, size = found[number] * 255 / 6, found[number].shape[-1]
        quarter = size // 4
        width = (ramps[:, 0, quarter, -quarter] - ramps[:, 0, quarter, quarter]) * size / (size - 2 * quarter) / side
        height = (ramps[:, 1, -quarter, quarter] - ramps[:, 1, quarter, quarter]) * size / (size - 2 * quarter) / side
        assert (width * height).mean().item() == pytest.approx((low + high) / 2, rel=0.1)
        ratio = width / height
        assert 0.6 < ratio.min() < 0.85 and 1.2 < ratio.max() < 1.6


def test_shapes_are_even_in_their_logarithm() -> None:
    """As many are high as are wide."""
    across, down = _fitting((31, 31), (0.2, 0.5), _Draws(np.arange(5000, dtype=np.uint64), 0))
    assert (across < down).double().mean().item() == pytest.approx(0.5, abs=0.02)


def test_brightness_and_contrast_vary_each_by_its_own_strength() -> None:
    images = torch.randint(90, 160, (500, 11, 11), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    small = replace(PLAIN, local_count=0)

    def varied(jitter: tuple[float, ...], probability: float) -> tuple[torch.Tensor, torch.Tensor]:
        crops = grey(replace(small, jitter=jitter, jitter_probability=probability), images)[0]
        return crops.mean((1, 2, 3)) / plain.mean((1, 2, 3)), crops.std((1, 2, 3)) / plain.std((1, 2, 3))

    plain = grey(small, images)[0]
    mean, spread = varied((0.0, 0.4, 0.0, 0.0), 1.0)
    torch.testing.assert_close(mean, torch.ones(500))
    assert 0.6 <= spread.min() < 0.63 and 1.37 < spread.max() <= 1.4 + 1e-5
    mean, spread = varied((0.4, 0.0, 0.0, 0.0), 1.0)
    torch.testing.assert_close(mean, spread)
    assert 0.6 <= mean.min() < 0.63 and 1.37 < mean.max() <= 1.4 + 1e-5
    mean, _ = varied((0.4, 0.0, 0.0, 0.0), 0.3)
    assert (mean != 1).double().mean().item() == pytest.approx(0.3, abs=0.07)


@pytest.mark.parametrize("kind", ["photo", "grey"])
def test_each_chance_acts_where_it_should(kind: str) -> None:
    def views(config: CropsConfig) -> list[torch.Tensor]:
        if kind == "photo":
            return crops_of(config)
        return [crop[0] for crop in grey(config, torch.from_numpy(np.array(photo().convert("L")))[None])]

    plain = views(PLAIN)
    flipped = views(replace(PLAIN, horizontal_flip=1))
    for before, after in zip(plain, flipped, strict=True):
        torch.testing.assert_close(after, before.flip(-1))
    solarized = views(replace(PLAIN, solarize=1))
    assert [not torch.equal(a, b) for a, b in zip(plain, solarized, strict=True)] == [False, True, False, False, False]
    bright = plain[1] >= 128 / 255
    torch.testing.assert_close(solarized[1], torch.where(bright, 1 - plain[1], plain[1]))
    for place in range(3):
        probability = tuple(float(place == other) for other in range(3))
        blurred = views(replace(PLAIN, blur=probability, blur_sigma=(1.5, 2)))
        changed = [not torch.equal(a, b) for a, b in zip(plain, blurred, strict=True)]
        assert changed == [place == min(number, 2) for number in range(5)]
    jittered = views(replace(PLAIN, jitter_probability=1))
    assert all(not torch.equal(a, b) for a, b in zip(plain, jittered, strict=True))


def test_chances_are_frequencies() -> None:
    images = torch.randint(0, 256, (2003, 7, 7), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    small = replace(PLAIN, local_count=1, local_size=7)
    plain = GreyCrops(small, (1, 7, 7), (0.0,), (1.0,))
    varied = GreyCrops(replace(small, horizontal_flip=0.3, solarize=0.2), (1, 7, 7), (0.0,), (1.0,))
    keys = np.arange(2003, dtype=np.uint64)
    before, after = plain.batch(images, keys), varied.batch(images, keys)
    share = [(a != b).flatten(1).any(1).double().mean().item() for a, b in zip(before, after, strict=True)]
    assert share[0] == pytest.approx(0.3, abs=0.04)
    assert share[1] == pytest.approx(1 - 0.7 * 0.8, abs=0.04)
    assert share[2] == pytest.approx(0.3, abs=0.04)


def test_a_crop_is_a_window_of_the_asked_area() -> None:
    """Cut out of two ramps, a crop says where it lies."""
    side = 41
    ramp = torch.arange(side).expand(side, side).to(torch.uint8) * 6
    images = torch.stack([ramp] * 300 + [ramp.T] * 300)
    config = replace(PLAIN, global_scale=(0.2, 0.5), local_count=0)
    keys = np.tile(np.arange(300, dtype=np.uint64), 2)
    crop = GreyCrops(config, (1, 32, 32), (0.0,), (1.0,)).batch(images, keys)[0] * 255 / 6
    across = (crop[:300, 0, 0, 24] - crop[:300, 0, 0, 8]) * 2 / side
    down = (crop[300:, 0, 24, 0] - crop[300:, 0, 8, 0]) * 2 / side
    area, ratio = across * down, across / down
    assert area.min() > 0.19 and area.max() < 0.51 and area.std() > 0.05
    assert ratio.min() > 0.74 and ratio.max() < 1.35
    assert crop[:300, 0, 0, 0].min() < 2 and crop[:300, 0, 0, -1].max() > side - 3
    assert not torch.allclose(across, down)


def test_the_shape_of_a_photograph_s_crop_is_drawn_too() -> None:
    """Of two ramps a crop says how wide and how high it was, as above."""
    rows, columns = np.mgrid[0:200, 0:200]
    image = Image.fromarray(np.stack([columns, rows, rows * 0], axis=2).astype(np.uint8))
    config = replace(PLAIN, global_scale=(0.2, 0.3), local_scale=(0.2, 0.3))
    torch.manual_seed(0)
    crops = [crop for _ in range(60) for crop in crops_of(config, image)[2:]]
    across = torch.stack([crop[0, 8, 12] - crop[0, 8, 4] for crop in crops])
    down = torch.stack([crop[1, 12, 8] - crop[1, 4, 8] for crop in crops])
    ratio = across / down
    assert 0.72 < ratio.min() < 0.78 and 1.28 < ratio.max() < 1.38
    assert ratio.log().mean().abs() < 0.04


def test_batched_blur_is_torchvisions() -> None:
    images = torch.rand(3, 1, 17, 17)
    sigma = torch.tensor([0.4, 1.1, 2.0])
    for image, width, blurred in zip(images, sigma, blur(images, sigma), strict=True):
        torch.testing.assert_close(blurred, gaussian_blur(image, [13, 13], [float(width)] * 2))


def test_grey_crops_of_the_whole_are_a_bicubic_resize() -> None:
    images = torch.randint(0, 256, (5, 11, 11), dtype=torch.uint8)
    expected = F.interpolate(images[:, None] / 255, 32, mode="bicubic", align_corners=False).clamp(0, 1)
    torch.testing.assert_close(grey(PLAIN, images)[0], expected)


def test_photo_crops_of_the_whole_are_pillow_s_bicubic_resize() -> None:
    image = photo(97, 97)
    for crop, size in zip(crops_of(PLAIN, image), (32, 32, 16, 16, 16), strict=True):
        expected = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
        assert np.array_equal(np.round(crop.numpy() * 255), expected)


def test_the_two_kinds_of_crops_are_alike() -> None:
    """The same views of the same images: as bright, and with gradients of like energy, in each crop."""
    config = replace(PLAIN, local_count=1, global_scale=(0.4, 1), local_scale=(0.1, 0.4), horizontal_flip=0.5)
    images = [piece(number, size=(29, 29)).convert("L") for number in range(300)]
    fast = grey(config, torch.from_numpy(np.stack([np.asarray(image) for image in images])))
    torch.manual_seed(0)
    slow = [torch.stack(crops) for crops in zip(*map(PhotoCrops(config, (1, 32, 32), (0,), (1,)), images), strict=True)]

    def energy(crops: torch.Tensor) -> torch.Tensor:
        return crops.diff(dim=-1).square().mean() + crops.diff(dim=-2).square().mean()

    for ours, theirs in zip(fast, slow, strict=True):
        assert float(ours.mean()) == pytest.approx(float(theirs.mean()), rel=0.03)
        assert 0.95 < energy(ours) / energy(theirs) < 1.25


def test_a_key_decides_all_crops_in_a_batch_or_alone() -> None:
    data = MemoryImages(np.random.default_rng(0).integers(0, 256, (7, 13, 13), dtype=np.uint8), np.arange(7))
    config = replace(CropsConfig(), local_size=16, local_count=3)
    keyed = KeyedDataset(data, make_crops(config, data, (1, 32, 32), (0.5,), (0.5,)))
    crops, labels = keyed.__getitems__([(3, 11), (5, 12), (3, 13)])
    assert [tuple(crop.shape) for crop in crops] == [(3, 1, 32, 32)] * 2 + [(3, 1, 16, 16)] * 3
    assert labels.tolist() == [3, 5, 3]
    alone, _ = keyed.__getitems__([(3, 13)])
    for crop, same in zip(crops, alone, strict=True):
        torch.testing.assert_close(crop[2], same[0])
        assert not torch.allclose(crop[0], crop[2])


def test_photos_come_in_batches_of_crops() -> None:
    data = MemoryImages(np.stack([np.array(photo())] * 3), np.arange(3))
    transform = make_crops(replace(PLAIN, local_scale=(0.1, 0.3)), data, (3, 32, 32), MEAN, STD)
    assert isinstance(transform, PhotoCrops)
    crops, _ = KeyedDataset(data, transform).__getitems__([(0, 1), (1, 2), (0, 1)])
    assert [tuple(crop.shape) for crop in crops] == [(3, 3, 32, 32)] * 2 + [(3, 3, 16, 16)] * 3
    assert torch.equal(crops[4][0], crops[4][2])
    assert not torch.equal(crops[4][0], crops[4][1])
    assert not torch.equal(crops[3], crops[4])


def test_colour_images_are_grey_for_a_network_of_one_channel() -> None:
    """timm's mean and deviation are of three channels whatever the network takes: a crop had three again by them."""
    transform = make_crops(PLAIN, object(), (1, 32, 32), MEAN, STD)
    crops = transform(photo())
    assert [tuple(crop.shape) for crop in crops] == [(1, 32, 32)] * 2 + [(1, 16, 16)] * 3
    expected = PhotoCrops(PLAIN, (1, 32, 32), (0.4,), (0.3,))(photo().convert("L"))
    assert all(torch.equal(crop, other) for crop, other in zip(crops, expected, strict=True))


def test_grey_images_are_normalized_as_they_are_evaluated() -> None:
    data = MemoryImages(np.stack([np.array(photo().convert("L"))] * 2), np.arange(2))
    transform = make_crops(PLAIN, data, (1, 32, 32), MEAN, STD)
    assert isinstance(transform, GreyCrops) and (transform.mean, transform.std) == pytest.approx((0.4, 0.3))
