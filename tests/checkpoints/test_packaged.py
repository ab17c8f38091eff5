"""The weights that come with the package: timm and every command take them by the card's name, offline."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image, ImageDraw

from contagg.checkpoints.locate import is_name, weights_in
from contagg.checkpoints.weights import load_model, read_weights, save_weights
from contagg.cli import main
from contagg.detection.config import DetectorConfig
from contagg.errors import UserError
from contagg.files import PACKAGED
from contagg.models import create
from contagg.training.config import ModelConfig

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
    features = model.forward_features(torch.zeros(1, *config["input_size"]))
    assert features.shape[2:] == config["pool_size"], "timm's pooling of larger images takes it for the map's size"


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


def test_a_folder_of_pictures_hides_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`contagg validate` makes one of their name; a run of that name is what a person means."""
    monkeypatch.chdir(tmp_path)
    Path(FILE.stem, "figures").mkdir(parents=True)
    assert weights_in(FILE.stem) == FILE and not is_name(FILE.stem)
    run = Path(FILE.stem, "checkpoints", "best.safetensors")
    save_weights(run, {"a": torch.zeros(1)}, {})
    assert weights_in(FILE.stem) == run


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        (NAME, f"With the package come '{FILE.stem}'"),
        (f"{NAME}.imagenet", f"With the package come '{FILE.stem}'"),
        (FILE.name, f"With the package come '{FILE.stem}'"),
        (f"container_lite_tiny.{TAG}", f"Did you mean '{FILE.stem}'?"),
    ],
)
def test_what_nearly_names_them_is_answered(word: str, answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["predict", word, __file__])
    error = capsys.readouterr().err
    assert answer in error and error.count("\n") == 1


@pytest.mark.parametrize("command", ["export timm", "export onnx", "export pt2", "inspect affinity", "inspect explore"])
def test_every_command_takes_them_as_weights(
    command: str, drawing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where a name has other classes: that is said then, and not that there is no such file."""
    monkeypatch.chdir(tmp_path)
    rest = {"export timm": ["out"], "inspect affinity": [str(drawing)], "inspect explore": [str(drawing)]}
    with pytest.raises(SystemExit):
        main([*command.split(), NAME, *rest.get(command, []), "--weights", FILE.stem])
    assert (
        "does not fit this Container: 2 tensors of another shape: head.fc.weight (99, 192)" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "config", [ModelConfig(name=FILE.stem), DetectorConfig(detector="retinanet", backbone=FILE.stem, norm="train")]
)
def test_a_network_that_a_recipe_names_by_them_does_not_start_from_them(
    config: ModelConfig | DetectorConfig, caplog: pytest.LogCaptureFixture
) -> None:
    config.check_references()
    [line] = caplog.messages
    assert "not loaded" in line and f"--model.init_weights {FILE.stem}" in line


def test_a_tag_or_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=rf"unknown model '{NAME}\.caltech'.* Did you mean '{NAME}\.{TAG}'\?"):
        create(f"{NAME}.caltech")
    for key in ("pretrained_cfg_overlay", "pretrained_cfg"):
        with pytest.raises(UserError, match=r"not loaded: there is no file 'checkpoint\.pth'"):
            timm.create_model("container_v1_light", pretrained=True, **{key: {"file": "checkpoint.pth"}})


def test_images_are_cut_as_the_authors_evaluate() -> None:
    """Their code is DeiT's: resized to 256 pixels, of which 224 are taken."""
    assert timm.models.get_pretrained_cfg("container_v1_light").crop_pct == 224 / 256
