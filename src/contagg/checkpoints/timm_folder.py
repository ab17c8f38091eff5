"""`contagg export timm`: a run's weights, or anyone's for a network's name, as timm and the hub load them."""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import ImageNetInfo, resolve_model_data_config
from timm.models import save_for_hf
from torch import nn

from contagg.checkpoints.hub_config import data_config, preprocessing_of
from contagg.checkpoints.locate import weights_file
from contagg.checkpoints.models import open_model
from contagg.checkpoints.weights import load_model, read_weights
from contagg.errors import UserError
from contagg.files import write_output

TASKS = ("classification", "dino")
"""Those whose network is one of timm's kind."""

FILES = ("model.safetensors", "config.json")
"""What timm and the hub look for."""


def run(options: argparse.Namespace) -> None:
    """Write the folder, and say how to load it. Its answers were compared with the run's."""
    model, metadata = open_named(options.model, options.weights) if options.weights else open_run(options.model)
    write_folder(model, metadata, options.out)
    name, arguments = metadata["model"]["name"], metadata["model"]["options"]
    given = "".join(f", {key}={value!r}" for key, value in arguments.items())
    ours = "import contagg  # tells timm the network's name\n" if type(model).__module__.startswith("contagg") else ""
    print(
        f"""{options.out}: {" and ".join(FILES)}; timm's answers from them are the run's

{ours}timm.create_model("local-dir:{options.out}", pretrained=True)
timm.create_model("hf-hub:OWNER/NAME", pretrained=True)      once the folder is uploaded
timm.create_model({name!r}, checkpoint_path={str(options.out / FILES[0])!r}{given})"""
    )


def open_run(path: str) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a run folder's best weights, or of a weights file of it, and what the file says of itself.

    Where the run kept an average of its weights, its files hold that.

    Raises:
        UserError: there is no such run, or its network is none that timm makes.
    """
    file = weights_file(Path(path))
    if file is None:
        raise UserError(
            f"{path!r} is no run folder and no weights file: give one that `contagg fit` wrote, or "
            "a name with --weights"
        )
    task = read_weights(file)[1].get("task")
    if task not in (None, *TASKS):
        raise UserError(f"{path!r} is of the task {task!r}; the networks of {' and '.join(TASKS)} can be exported")
    return load_model(file)


def open_named(name: str, weights: str) -> tuple[nn.Module, dict[str, Any]]:
    """A network by its name with a file's weights, and what timm says of the name; 1,000 classes are ImageNet's.

    Raises:
        UserError: they do not fit, the number of classes included.
    """
    model, _ = open_model(name, weights)
    count = int(model.num_classes)  # type: ignore[arg-type]
    return model, {
        "model": {"name": name, "options": {}},
        "class_names": ImageNetInfo().label_names() if count == 1000 else [str(number) for number in range(count)],
        "preprocessing": preprocessing_of(resolve_model_data_config(model)),
    }


def write_folder(model: nn.Module, metadata: Mapping[str, Any], folder: Path) -> None:
    """Write `FILES` into `folder`, each whole or not at all, once timm has given the model's answers from them.

    Args:
        model: In eval mode.
        metadata: `model`, `preprocessing` and `class_names` of a run's weights file.

    Raises:
        UserError: the folder cannot be written, or timm's answers are others.
    """
    description = {} if model.num_classes == 0 else {"label_names": metadata["class_names"]}
    with tempfile.TemporaryDirectory() as temporary:
        save_for_hf(
            model,
            temporary,
            model_config=description,
            model_args=metadata["model"]["options"],
            safe_serialization=True,
            data_config=data_config(metadata["preprocessing"]),
        )
        _compare(model, Path(temporary), metadata["preprocessing"]["input_size"])
        for name in FILES:
            write_output(folder / name, (Path(temporary) / name).read_bytes())


def _compare(model: nn.Module, folder: Path, input_size: tuple[int, int, int]) -> None:
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = torch.randn(2, *input_size)
    with torch.inference_mode():
        if not torch.equal(loaded(images), model(images)):
            raise UserError("nothing was written: timm's answers from the exported weights are not the run's")
