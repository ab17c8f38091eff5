"""Folders of transformers: the part that sees images, from safetensors, without a network and without their code."""

import json
from pathlib import Path

import pytest
import torch

from contagg.checkpoints.models import open_model
from contagg.errors import UserError

transformers = pytest.importorskip("transformers")
SMALL = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 64}


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    transformers.ViTModel(transformers.ViTConfig(**SMALL, image_size=64)).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def test_it_answers_as_transformers_does(vit: Path) -> None:
    (vit / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "size": 300, "resample": 2}))
    model, preprocessing = open_model(str(vit))
    assert preprocessing == {"input_size": (3, 64, 64), "mean": [0.5] * 3, "interpolation": "bilinear"}
    theirs = transformers.ViTModel.from_pretrained(vit).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(images), theirs(images).last_hidden_state)


def test_of_two_towers_the_one_that_sees(tmp_path: Path) -> None:
    vision = {**SMALL, "image_size": 32, "patch_size": 16}
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
    transformers.CLIPModel(transformers.CLIPConfig(vision_config=vision, text_config=text)).save_pretrained(tmp_path)
    model, preprocessing = open_model(str(tmp_path))
    assert preprocessing["input_size"] == (3, 32, 32) and model(torch.randn(1, 3, 32, 32)).shape == (1, 5, 48)


class Bomb:
    def __reduce__(self) -> tuple:
        return exec, ("raise SystemExit('run')",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no"), "cannot open its 'vit'"),
        (lambda folder: _config(folder, model_type="bert"), "takes input_ids, not images"),
        (lambda folder: _config(folder, model_type="\x1b[31mmine", auto_map={"AutoModel": "code.Model"}), "mine"),
    ],
)
def test_what_cannot_be_opened_is_one_line(change, message: str, vit: Path) -> None:
    change(vit)
    (vit / "code.py").write_text("raise SystemExit('run')")
    torch.save(Bomb(), vit / "pytorch_model.bin")
    with pytest.raises(UserError, match=message) as found:
        open_model(str(vit))
    assert "\n" not in str(found.value) and "\x1b" not in str(found.value)


def _config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_weights_are_its_own(vit: Path) -> None:
    with pytest.raises(UserError, match="has weights of its own"):
        open_model(str(vit), "other.safetensors")
