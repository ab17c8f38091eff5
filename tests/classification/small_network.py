"""A small network, written as a run writes it, and the commands that read it."""

from pathlib import Path

import pytest
import torch

from contagg.checkpoints.weights import load_model, save_weights
from contagg.cli import main
from contagg.data.decode import read_image
from contagg.models import create
from contagg.training.building import Preprocessing

CLASSES = ["china", "flower", "tower"]
OPTIONS = {"num_classes": 3, "in_chans": 3, "img_size": 32, "embed_dims": [8, 8, 16, 32], "depths": [1, 1, 1, 1]}
PREPARED = Preprocessing(
    input_size=(3, 32, 32), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), crop="resized", crop_fraction=0.9,
    interpolation="bicubic",
)  # fmt: skip


def save_small_network(path: Path) -> None:
    torch.manual_seed(0)
    model = create("container_light_tiny", **OPTIONS)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    metadata = {
        "model": {"name": "container_light_tiny", "options": OPTIONS},
        "class_names": CLASSES,
        "preprocessing": vars(PREPARED),
    }
    save_weights(path, model.state_dict(), metadata)


def expected(path: Path, image: Path) -> torch.Tensor:
    model, _ = load_model(path)
    with torch.no_grad():
        return model(PREPARED.evaluation()(read_image(image, "x"))[None]).softmax(1)[0]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    main(list(arguments))
    return capsys.readouterr().out


def fail(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as leave:
        main(list(arguments))
    assert leave.value.code == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    return printed
