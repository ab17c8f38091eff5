"""The weights that come with the package: timm and every command take them by the card's name, offline."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image, ImageDraw

from contagg.checkpoints.weights import load_model, read_weights
from contagg.cli import main
from contagg.files import PACKAGED
from contagg.models import create

NAME, TAG = "container_light_tiny", "caltech101"
FILE = PACKAGED / f"{NAME}.{TAG}.safetensors"
KEY = "stages.2.blocks.1.mlp.fc1.weight"


@pytest.fixture(scope="module")
def drawing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A yin-yang, which is a class."""
    image = Image.new("RGB", (160, 160), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((8, 8, 152, 152), fill="white", outline="black", width=3)
    draw.pieslice((8, 8, 152, 152), 90, 270, fill="black")
    for top, colour, other in ((8, "white", "black"), (80, "black", "white")):
        draw.ellipse((44, top, 116, top + 72), fill=colour)
        draw.ellipse((71, top + 27, 89, top + 45), fill=other)
    path = tmp_path_factory.mktemp("drawing") / "drawing.png"
    image.save(path)
    return path


@pytest.mark.parametrize("name", [NAME, f"{NAME}.{TAG}"])
def test_timm_makes_it_by_name(name: str) -> None:
    model = timm.create_model(name, pretrained=True).eval()
    ours, metadata = load_model(FILE)
    images = torch.randn(2, 3, 96, 96)
    assert torch.equal(model(images), ours(images))
    config = model.pretrained_cfg
    assert config["label_names"] == tuple(metadata["class_names"]) and config["num_classes"] == 99 == model.num_classes
    assert config["input_size"] == (3, 96, 96) and config["license"] == "cc-by-4.0" and config["tag"] == TAG
    assert f"{NAME}.{TAG}" in timm.list_pretrained("container*")


def test_it_starts_other_tasks() -> None:
    trained = read_weights(FILE)[0]
    for arguments in ({"num_classes": 7}, {"num_classes": 0}, {"features_only": True}, {"in_chans": 1}):
        state = create(NAME, pretrained=True, **arguments).state_dict()
        [weight] = [tensor for name, tensor in state.items() if name.removeprefix("model.") == KEY]
        assert torch.equal(weight, trained[KEY])
    assert create(NAME).num_classes == 1000, "without weights it is as it was"


def test_the_file_is_small_and_says_nothing_of_where_it_was_made() -> None:
    assert FILE.stat().st_size < 5e6
    metadata = read_weights(FILE)[1]
    assert set(metadata) == {"task", "model", "class_names", "preprocessing"}
    assert len(json.loads(FILE.with_suffix(".json").read_text())["label_names"]) == 99


def test_predict_knows_what_is_drawn(drawing: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["predict", FILE.stem, str(drawing), "--output", "json"])
    [found] = json.loads(capsys.readouterr().out)
    assert found["classes"][0]["class"] == "yin_yang"


def test_what_is_made_of_it_lies_in_the_folder_at_hand(drawing: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "contagg", "inspect", "affinity", FILE.stem, str(drawing)]
    before = sorted(PACKAGED.iterdir())
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(PACKAGED.iterdir()) == before and list(tmp_path.rglob("*.png"))
