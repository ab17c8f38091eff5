"""An image as a network is shown it, and the way from its pixels to tokens."""

import pytest
import timm
import torch
from PIL import Image

import contagg
from contagg.errors import UserError
from contagg.inspect.view import look, pixel, stride_of

TINY = {"embed_dims": (32, 64, 96, 128), "depths": (1, 1, 1, 1), "num_classes": 3}
PLAIN = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "interpolation": "nearest"}


def test_the_whole_image_keeps_its_shape() -> None:
    model = contagg.create("container_light_tiny", **TINY)
    image = Image.new("RGB", (60, 40), (255, 0, 51))
    view = look(model, image, PLAIN | {"input_size": (3, 32, 32)})
    assert view.size == (32, 48)
    assert view.tensor[0, :, 5, 7].tolist() == pytest.approx([1, 0, 0.2])
    assert look(model, image, PLAIN, size=20).size == (20, 30)
    assert look(model, image, {}).size == (224, 336)  # what the model's own configuration says


def test_normalized_and_grey_as_the_run_was() -> None:
    model = contagg.create("container_light_tiny", in_chans=1, **TINY)
    preprocessing = {"input_size": [1, 32, 32], "mean": (0.2, 0.4, 0.6), "std": (0.25,) * 3, "crop": "resized"}
    view = look(model, Image.new("RGB", (8, 8), (255, 255, 255)), preprocessing)
    assert view.tensor.shape == (1, 1, 32, 32)
    torch.testing.assert_close(view.tensor, torch.full((1, 1, 32, 32), (1 - 0.4) / 0.25))


@pytest.mark.parametrize("name", ["container_tiny", "deit_small_pam", "deit_tiny_patch16_224"])
def test_a_model_of_one_grid_gets_the_image_squeezed_or_is_resized(name: str) -> None:
    sizes = TINY | {"affinity": "token mlp"} if name == "container_tiny" else {"depth": 1, "num_classes": 3}
    model = contagg.create(name, img_size=64, **sizes)
    image = Image.new("RGB", (60, 40))
    squeezed = look(model, image, {"input_size": (3, 64, 64)})
    assert squeezed.size == (64, 64)
    model.eval()(squeezed.tensor)
    wide = look(model, image, {"input_size": (3, 64, 64)}, size=96)
    assert wide.size == (96, 144)
    model(wide.tensor)


@pytest.mark.parametrize("options", [{}, {"dynamic_img_size": True}, {"dynamic_img_size": True, "patch_size": 14}])
@pytest.mark.parametrize("size", [3, 50, 64, 101])
def test_a_vision_transformer_gets_whole_patches_of_any_image(options: dict, size: int) -> None:
    """One with dynamic_img_size refuses what its patches do not fill, which 37 x 61 pixels never do."""
    model = timm.create_model("deit_tiny_patch16_224", depth=1, num_classes=3, **options)
    patch = options.get("patch_size", 16)
    view = look(model, Image.new("RGB", (61, 37)), {}, size=size)
    model.eval()(view.tensor)
    assert all(pixels % patch == 0 for pixels in view.size)
    assert abs(view.size[0] - size) <= patch / 2 or view.size[0] == patch


def test_a_network_of_one_size_says_so() -> None:
    model = timm.create_model("cait_xxs24_224", depth=1, num_classes=3)
    with pytest.raises(UserError, match="size 64: Cait serves images of 224 x 224 pixels only"):
        look(model, Image.new("RGB", (60, 40)), {}, size=64)


def test_pixels() -> None:
    assert pixel((0, 4), (3, 5), "it") == (0, 4)
    assert pixel((0.0, 0.99), (3, 5), "it") == (0, 4)
    assert pixel((0.5, 1.0), (3, 5), "it") == (1, 4)
    for outside in ((3, 0), (0, 5), (-1, 0), (0.5, 1.1), (-0.1, 0)):
        message = rf"position {outside[0]},{outside[1]} is outside it; whole numbers run from 0 to 2,4"
        with pytest.raises(UserError, match=message):
            pixel(outside, (3, 5), "it")


def test_other_channels_are_refused() -> None:
    with pytest.raises(UserError, match="the network takes 4"):
        look(contagg.create("container_light_tiny", **TINY), Image.new("RGB", (8, 8)), {"input_size": (4, 32, 32)})


def test_a_pixel_s_place_in_the_network_s_image() -> None:
    view = look(contagg.create("container_light_tiny", **TINY), Image.new("RGB", (50, 20)), {}, size=40)
    assert view.size == (40, 100)
    assert view.place((3, 49)) == (7.0, 99.0)
    with pytest.raises(UserError, match="image of 20 rows and 50 columns"):
        view.place((20, 0))


def test_strides() -> None:
    model = contagg.create("container_light_tiny", **TINY)
    assert stride_of(model, "stages.2.blocks.0.aggregation", (33, 47), (3, 3)) == 16
    transformer = timm.create_model("deit_tiny_patch16_224", depth=2)
    assert stride_of(transformer, "blocks.1.attn", (224, 224), (14, 14)) == 16
    assert stride_of(torch.nn.Linear(1, 1), "anything", (30, 40), (3, 5)) == 10


def test_a_transformer_of_any_size_is_given_whole_patches_of_a_long_image() -> None:
    model = contagg.create("vit_tiny_patch16_224", dynamic_img_size=True, depth=1, num_classes=2).eval()
    view = look(model, Image.new("RGB", (151, 100)), {}, 64)
    assert view.tensor.shape == (1, 3, 64, 96) and model(view.tensor).shape == (1, 2)
