"""From a recipe's words to a network, to its preprocessing, and back from a weights file."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from contagg.checkpoints.weights import save_weights
from contagg.data.config import AugmentationConfig
from contagg.errors import UserError
from contagg.models import create
from contagg.training.building import Preprocessing, build_model
from contagg.training.config import ModelConfig

TINY = {"embed_dims": [8, 8, 16, 32], "depths": [1, 1, 1, 1]}


def config(name: str = "container_light_tiny", **changes: object) -> ModelConfig:
    options = {"options": TINY} if name.startswith("container") else {}
    return ModelConfig(name=name, **({"image_size": 32, "channels": 1} | options | changes))


@pytest.mark.parametrize("name", ["container_light_tiny", "test_vit", "test_resnet", "test_efficientnet"])
def test_its_options_make_it_again(name: str) -> None:
    model, options = build_model(config(name), num_classes=7)
    assert options["num_classes"] == 7
    again = create(name, **json.loads(json.dumps(options)))
    again.load_state_dict(model.state_dict())
    images = torch.randn(2, 1, 32, 32)
    assert torch.equal(model.eval()(images), again.eval()(images))
    assert model(images).shape == (2, 7)


def test_drop_path_reaches_the_last_block() -> None:
    model, options = build_model(config(drop_path=0.3), num_classes=3)
    rates = [module.drop_prob for module in model.modules() if type(module).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.3)
    assert "drop_path_rate" not in options


def test_without_drop_path_there_is_none_even_where_timm_has_it_by_default() -> None:
    options = {"depths": [1, 1, 1, 1], "embed_dim": 16, "num_heads": [1, 1, 1, 1], "window_size": 2}
    model, _ = build_model(config("swin_tiny_patch4_window7_224", options=options, drop_path=0.0), num_classes=3)
    assert not any(getattr(module, "drop_prob", 0) for module in model.modules())
    build_model(config("test_convnext", drop_path=0.0), num_classes=3)
    with pytest.raises(UserError, match=r"model.drop_path is 0.1, but vgg11 has no stochastic depth: set it to 0"):
        build_model(config("vgg11"), num_classes=3)


def test_begins_from_weights_with_another_classifier(tmp_path: Path) -> None:
    source, _ = build_model(config(), num_classes=5)
    save_weights(tmp_path / "five.safetensors", source.state_dict(), {})
    model, _ = build_model(config(init_weights=str(tmp_path / "five.safetensors")), num_classes=3)
    assert torch.equal(model.stages[0].embedding.projection.weight, source.stages[0].embedding.projection.weight)
    assert model.get_classifier().weight.shape[0] == 3
    same, _ = build_model(config(init_weights=str(tmp_path / "five.safetensors")), num_classes=5)
    assert torch.equal(same.get_classifier().weight, source.get_classifier().weight)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    other, _ = build_model(config(options=TINY | {"embed_dims": [8, 8, 16, 64]}), num_classes=3)
    save_weights(tmp_path / "wide.safetensors", other.state_dict(), {})
    with pytest.raises(UserError, match=r"wide.safetensors.* does not fit .*\(64, 16, 2, 2\), the model's \(32, 16"):
        build_model(config(init_weights=str(tmp_path / "wide.safetensors")), num_classes=3)


BAD = [
    ({"options": TINY | {"drop_rat": 3}}, "no argument 'drop_rat'. Did you mean 'drop_rate'?"),
    ({"options": TINY | {"affinity": "dwconv4"}}, "dwconv4"),
    ({"name": "container_lihgt", "options": {}}, "Did you mean 'container_light'?"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_words(changes: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        build_model(ModelConfig(**({"name": "container_light_tiny", "image_size": 32} | changes)), num_classes=3)
    assert message in str(error.value)


@pytest.mark.parametrize("crop", ["resized", "padded"])
def test_preprocessing_survives_a_weights_file(crop: str) -> None:
    model, _ = build_model(config(), num_classes=3)
    augmentation = AugmentationConfig(crop=crop, crop_fraction=0.8, interpolation="bilinear")
    made = Preprocessing.of(model, config(), augmentation, bit_depth=12)
    read = Preprocessing.read({"preprocessing": json.loads(json.dumps(vars(made)))}, "file")
    assert read == made and read.bit_depth == 12
    image = Image.effect_mandelbrot((50, 40), (-2, -1.5, 1, 1.5), 100)
    assert torch.equal(read.evaluation()(image), made.evaluation()(image))
    assert made.evaluation()(image).shape == made.training(augmentation)(image).shape == (1, 32, 32)


@pytest.mark.parametrize("metadata", [{}, {"preprocessing": {"mean": [0.5]}}])
def test_a_file_that_does_not_say(metadata: dict) -> None:
    with pytest.raises(UserError, match=r"some\.pth does not say how images are prepared"):
        Preprocessing.read(metadata, "some.pth")
