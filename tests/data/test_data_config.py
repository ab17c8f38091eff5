"""A wrong word in a recipe is answered before torch is imported."""

import subprocess
import sys

import pytest

from contagg.data.config import AugmentationConfig, DataConfig
from contagg.errors import UserError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "fashion_mnist"}, "unknown data set 'fashion_mnist'. Did you mean 'fashion-mnist'\\?"),
        ({"name": "hfds/"}, "unknown data set 'hfds/'"),
        ({"name": "imagenet"}, "Known: digits, .*folder, tar, .*hfds/NAME"),
        ({"fraction": 0.0}, "data.fraction must lie in .0, 1., not 0.0"),
        ({"fraction": float("nan")}, "data.fraction"),
        ({"fraction": 1.5}, "data.fraction"),
        ({"max_corrupt_fraction": -0.1}, "data.max_corrupt_fraction must lie in .0, 0.5., not -0.1"),
        ({"max_corrupt_fraction": 0.6}, "data.max_corrupt_fraction"),
        ({"classes": 1}, "data.classes must be at least 2, not 1"),
        ({"name": "wds/", "fraction": 0.5}, "data.fraction must be 1 for the stream 'wds/'"),
    ],
)
def test_wrong_data_is_named(values: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        DataConfig(**values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["digits", "folder", "tar", "hfds/owner/Name", "wds/", "tfds/mnist", "HFDS/x"])
def test_right_names_pass(name: str) -> None:
    assert DataConfig(name=name).is_stream == (name in ("wds/", "tfds/mnist"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"horizontal_flip": 1.1}, "augmentation.horizontal_flip must lie in .0, 1., not 1.1"),
        ({"erasing": -1}, "augmentation.erasing"),
        ({"padding": -1}, "augmentation.padding must be at least 0, not -1"),
        ({"scale": (0.5, 0.2)}, "augmentation.scale"),
        ({"scale": (0.0, 1.0)}, "augmentation.scale"),
        ({"ratio": (2.0, 1.0)}, "augmentation.ratio"),
        ({"crop_fraction": 0.0}, "augmentation.crop_fraction"),
        ({"repeats": 0}, "augmentation.repeats must be at least 1, not 0"),
        (
            {"auto_augment": "rand-m9-std0.5"},
            "unknown policy 'rand-m9-std0.5'. Right are such as 'rand-m9-mstd0.5-inc1'",
        ),
        ({"auto_augment": "random"}, "unknown policy 'random'"),
        ({"auto_augment": ""}, "unknown policy ''"),
        ({"auto_augment": "rand-n0"}, "unknown policy"),
        ({"auto_augment": "original-m9"}, "unknown policy"),
    ],
)
def test_wrong_augmentation_is_named(values: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        AugmentationConfig(**values)
    assert "\n" not in str(caught.value)


def test_odd_batches_cannot_be_mixed() -> None:
    AugmentationConfig().check_batch(64)
    AugmentationConfig(mixup=0, cutmix=0).check_batch(7)
    AugmentationConfig(mix_probability=0).check_batch(7)
    for augmentation in (AugmentationConfig(), AugmentationConfig(mixup=0), AugmentationConfig(cutmix=0)):
        with pytest.raises(UserError, match=r"optimization\.batch_size 7 is odd"):
            augmentation.check_batch(7)


def test_needs_no_torch() -> None:
    code = "import sys, contagg_cli; import contagg.data.config; assert not {'torch', 'timm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("root", ["x" * 5000, "a\0b", "~nobody-of-this-name/x", "y/" * 2000])
def test_what_can_be_no_folder_is_none(root: str) -> None:
    with pytest.raises(UserError, match=r"is no folder|hold no NUL"):
        DataConfig(name="folder", root=root).folder()
