"""Transforms are timm's where timm has them, and our own equal a slow oracle."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from photographs import piece
from PIL import Image
from timm.data import create_transform
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision.transforms.functional import normalize, to_tensor

from contagg.data import transforms
from contagg.data.config import AugmentationConfig
from contagg.data.sampling import seed_sample, seed_step
from contagg.errors import UserError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = (3, 37, 29)
PLAIN = AugmentationConfig(crop="padded", auto_augment=None, color_jitter=0, erasing=0, padding=2)


def test_training_is_deits_transform() -> None:
    ours = transforms.train_transform(AugmentationConfig(), SIZE, MEAN, STD)
    deit = create_transform(
        SIZE,
        is_training=True,
        color_jitter=0.4,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic",
        re_prob=0.25,
        re_mode="pixel",
        re_count=1,
    )
    for key in range(40):
        results = []
        for transform in (ours, deit):
            seed_sample(key)
            results.append(transform(piece(key)))
        assert results[0].shape == SIZE and torch.equal(*results)


@pytest.mark.parametrize("values", [{"ratio": (1.9, 2.1)}, {"scale": (0.1, 0.2)}, {"interpolation": "bilinear"}])
def test_the_crop_is_as_the_recipe_says(values: dict) -> None:
    plain = {"horizontal_flip": 0, "auto_augment": None, "color_jitter": 0, "erasing": 0}
    ours = transforms.train_transform(AugmentationConfig(**plain, **values), SIZE, MEAN, STD)
    timms = {"interpolation": "bicubic", "scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)} | values
    theirs = create_transform(SIZE, is_training=True, hflip=0, color_jitter=None, auto_augment=None, **timms)
    usual = transforms.train_transform(AugmentationConfig(**plain), SIZE, MEAN, STD)
    for key in range(5):
        results = []
        for transform in (ours, theirs, usual):
            seed_sample(key)
            results.append(transform(piece(key, size=(120, 90))))
        assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_training_cuts_as_the_recipe_says() -> None:
    """Area, shape and resizing that are not timm's defaults."""
    ratio, scale = (2.0, 2.5), (0.3, 0.35)
    config = AugmentationConfig(
        ratio=ratio, scale=scale, interpolation="nearest", auto_augment=None, color_jitter=0, erasing=0
    )
    ours = transforms.train_transform(config, SIZE, MEAN, STD)
    cut = RandomResizedCropAndInterpolation(SIZE[1:], scale, ratio, "nearest")
    for key in range(20):
        seed_sample(key)
        result = ours(piece(key))
        seed_sample(key)
        wanted = normalize(to_tensor(cut(piece(key))), MEAN, STD)
        assert torch.allclose(result, wanted, atol=2e-6) or torch.allclose(result, wanted.flip(-1), atol=2e-6)


def test_colour_jitter_is_used_without_auto_augment() -> None:
    def result(color_jitter: float) -> torch.Tensor:
        config = AugmentationConfig(auto_augment=None, color_jitter=color_jitter, erasing=0)
        seed_sample(5)
        return transforms.train_transform(config, SIZE, MEAN, STD)(piece(1))

    assert not torch.equal(result(0.4), result(0))


@pytest.mark.parametrize("augmentation", [AugmentationConfig(), AugmentationConfig(crop="padded"), PLAIN])
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_mode_gives_the_networks_channels(augmentation: AugmentationConfig, mode: str, channels: int) -> None:
    image = piece(2).convert(mode)
    transform = transforms.train_transform(augmentation, (channels, 37, 29), MEAN, STD)
    evaluation = transforms.evaluation_transform(augmentation, (channels, 37, 29), MEAN, STD)
    assert transform(image).shape == evaluation(image).shape == (channels, 37, 29)
    assert evaluation(image).abs().max() < 3 and evaluation(image).dtype == torch.float32


def test_channels_and_statistics_must_fit() -> None:
    with pytest.raises(UserError, match="images have 1 or 3 channels, but the network takes 4"):
        transforms.train_transform(AugmentationConfig(), (4, 8, 8), (0.5,) * 4, (0.5,) * 4)
    with pytest.raises(UserError, match="mean and std must have 1 or 3 values, not 2"):
        transforms.evaluation_transform(PLAIN, SIZE, (0.5, 0.5), (0.5, 0.5))


def draw_often(policy: str, channels: int, count: int) -> None:
    config = AugmentationConfig(auto_augment=policy)
    transform = transforms.train_transform(config, (channels, 16, 16), MEAN, STD)
    image = piece(4, size=(24, 20))
    for key in range(count):
        seed_sample(key)
        assert torch.isfinite(transform(image)).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", ["rand-m10-inc1", "rand-m9-mstd0.5-inc1", "v0", "v0r", "original-mstd0.5", "3a"])
def test_policies_never_fail(policy: str, channels: int) -> None:
    draw_often(policy, channels, 400)


@pytest.mark.slow
def test_20_000_draws_of_deits_policy() -> None:
    draw_often("rand-m9-mstd0.5-inc1", 3, 20_000)


def test_posterizing_to_no_bits_is_black() -> None:
    config = AugmentationConfig(auto_augment="rand-m10-n1-p1-inc1", erasing=0)
    transform = transforms.train_transform(config, (1, 8, 8), (0.0,), (1.0,))
    white = Image.new("L", (8, 8), 255)
    black = 0
    for key in range(150):
        seed_sample(key)
        black += int(transform(white).max() == 0)
    assert black > 10  # posterizing, inverting and solarizing, of 15 operations


def test_evaluation_is_timms() -> None:
    image = piece(7, size=(91, 67))
    for crop_fraction, interpolation in ((0.875, "bicubic"), (1.0, "bilinear"), (0.7, "nearest")):
        wanted = create_transform(SIZE, crop_pct=crop_fraction, interpolation=interpolation)(image)
        config = AugmentationConfig(crop_fraction=crop_fraction, interpolation=interpolation)
        assert torch.equal(transforms.evaluation_transform(config, SIZE, MEAN, STD)(image), wanted)


def batch_of(count: int) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.asarray(piece(number, size=(29, 37))) for number in range(count)]))


def test_padded_evaluation_only_normalizes() -> None:
    images = batch_of(3)
    result = transforms.evaluation_transform(PLAIN, SIZE, MEAN, STD).batch(images, None)
    for image, one in zip(images, result, strict=True):
        wanted = normalize(to_tensor(Image.fromarray(image.numpy())), MEAN, STD)
        assert torch.allclose(one, wanted, atol=2e-6)


def test_padded_evaluation_is_the_same_each_time_and_draws_nothing() -> None:
    image = Image.fromarray(batch_of(1)[0].numpy())
    evaluation = transforms.evaluation_transform(replace(PLAIN, horizontal_flip=0.5, erasing=0.5), SIZE, MEAN, STD)
    state = random.getstate()
    wanted = normalize(to_tensor(image), MEAN, STD)
    assert all(torch.allclose(evaluation(image), wanted, atol=2e-6) for _ in range(20))
    keyed = evaluation.batch(batch_of(1).expand(20, -1, -1, -1), np.arange(20, dtype=np.uint64))
    assert all(torch.allclose(one, wanted, atol=2e-6) for one in keyed)
    assert random.getstate() == state


def test_padded_crops_are_windows_of_the_padded_image() -> None:
    transform = transforms.train_transform(PLAIN, SIZE, MEAN, STD)
    images = batch_of(1).expand(600, -1, -1, -1)
    results = transform.batch(images, np.arange(600, dtype=np.uint64))
    black = torch.nn.functional.pad(to_tensor(Image.fromarray(images[0].numpy())), [2] * 4)
    windows = {}
    for top in range(5):
        for left in range(5):
            window = normalize(black[:, top : top + 37, left : left + 29], MEAN, STD)
            windows[top, left, False], windows[top, left, True] = window, window.flip(-1)
    seen = [
        next(key for key, window in windows.items() if torch.allclose(result, window, atol=2e-6)) for result in results
    ]
    assert set(seen) == set(windows)
    assert 240 < sum(flipped for *_, flipped in seen) < 360


def test_a_sample_does_not_depend_on_its_batch() -> None:
    config = replace(PLAIN, erasing=0.5)
    transform = transforms.train_transform(config, (3, 32, 31), MEAN, STD)  # resizing too
    images, keys = batch_of(11), np.arange(100, 111, dtype=np.uint64)
    whole = transform.batch(images, keys)
    for index in (0, 4, 10):
        assert torch.equal(transform.batch(images[index : index + 1], keys[index : index + 1])[0], whole[index])
    assert torch.equal(transform.batch(images.flip(0), keys[::-1].copy()).flip(0), whole)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_flipping_never_and_always(flip: float) -> None:
    transform = transforms.train_transform(replace(PLAIN, padding=0, horizontal_flip=flip), SIZE, MEAN, STD)
    plain = transforms.evaluation_transform(PLAIN, SIZE, MEAN, STD)
    images = batch_of(9)
    wanted = plain.batch(images, None)
    assert torch.equal(transform.batch(images, np.arange(9, dtype=np.uint64)), wanted.flip(-1) if flip else wanted)


def test_one_image_goes_through_the_same_steps() -> None:
    transform = transforms.train_transform(PLAIN, SIZE, MEAN, STD)
    seed_sample(3)
    key = np.array([random.getrandbits(64)], dtype=np.uint64)
    images = batch_of(1)
    seed_sample(3)
    assert torch.equal(transform(Image.fromarray(images[0].numpy())), transform.batch(images, key)[0])


@pytest.mark.parametrize(("mode", "filling"), [("const", 0.0), ("pixel", None)])
def test_erasing_touches_its_share(mode: str, filling: float | None) -> None:
    config = replace(PLAIN, padding=0, horizontal_flip=0, erasing=0.25, erasing_mode=mode)
    images = batch_of(1).expand(800, -1, -1, -1)
    erased = transforms.train_transform(config, SIZE, MEAN, STD).batch(images, np.arange(800, dtype=np.uint64))
    plain = transforms.evaluation_transform(PLAIN, SIZE, MEAN, STD).batch(images, None)
    changed = (erased != plain).flatten(1).any(1)
    assert 150 < changed.sum() < 250
    values = erased[erased != plain]
    if filling is None:
        assert len(values.unique()) > 1000
    else:
        assert (values == filling).all()


def test_grey_batches_become_three_equal_channels_and_colours_one() -> None:
    grey = batch_of(2)[..., 0]
    plain = replace(PLAIN, padding=0, horizontal_flip=0)
    three = transforms.evaluation_transform(plain, SIZE, (0.0,), (1.0,)).batch(grey, None)
    assert three.shape == (2, *SIZE) and torch.allclose(three, (grey / 255)[:, None].expand(-1, 3, -1, -1))
    colours = batch_of(2)
    one = transforms.evaluation_transform(plain, (1, 37, 29), (0.0,), (1.0,)).batch(colours, None)
    wanted = to_tensor(Image.fromarray(colours[1].numpy()).convert("L"))
    assert one.shape == (2, 1, 37, 29) and (one[1] - wanted).abs().max() <= 1.01 / 255


def test_digits_are_resized_as_pillow_would() -> None:
    small = batch_of(1)[:, :8, :8]
    result = transforms.evaluation_transform(replace(PLAIN, interpolation="bilinear"), (3, 32, 32), (0.0,), (1.0,))
    wanted = to_tensor(Image.fromarray(small[0].numpy()).resize((32, 32), Image.Resampling.BILINEAR))
    assert (result.batch(small, None)[0] - wanted).abs().max() <= 1.01 / 255


def test_mixing_is_off_where_the_recipe_says_so() -> None:
    assert transforms.mixup(AugmentationConfig(mixup=0, cutmix=0), 10, 0.1) is None
    assert transforms.mixup(AugmentationConfig(mix_probability=0), 10, 0.1) is None


def test_mixing_goes_by_the_recipes_chances_and_strengths() -> None:
    config = AugmentationConfig(mixup=0.3, cutmix=0.7, mix_probability=0.6, cutmix_probability=0.2)
    mix = transforms.mixup(config, 5, 0.1)
    assert mix is not None
    assert (mix.mixup_alpha, mix.cutmix_alpha, mix.mix_prob, mix.switch_prob) == (0.3, 0.7, 0.6, 0.2)


def test_mixing_smooths_as_the_recipe_says() -> None:
    mix = transforms.mixup(AugmentationConfig(), num_classes=5, label_smoothing=0.3)
    assert mix is not None
    targets = mix(torch.rand(2, 3, 8, 8), torch.tensor([1, 1]))[1]  # partners of one class: mixing changes no target
    assert torch.allclose(targets, torch.tensor([0.06, 0.76, 0.06, 0.06, 0.06]).expand(2, -1))


@pytest.mark.parametrize("values", [{}, {"mixup": 0.0}, {"cutmix": 0.0}])
def test_mixing_pairs_images_and_targets_by_the_step(values: dict) -> None:
    mix = transforms.mixup(AugmentationConfig(**values), num_classes=5, label_smoothing=0.1)
    assert mix is not None
    images, labels = torch.rand(6, 3, 16, 16), torch.tensor([0, 1, 2, 3, 4, 0])

    def mixed(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        seed_step(1, 2, batch, 0)
        return mix(images.clone(), labels)

    first, again, other = mixed(3), mixed(3), mixed(4)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])
    assert torch.allclose(first[1].sum(1), torch.ones(6)) and first[1].min() >= 0.02 - 1e-6
