"""A folder as transformers keeps a model: config.json, model.safetensors and preprocessor_config.json.

No code of a folder is run and nothing is fetched; weights are read from safetensors alone. The `transformers` extra
library is imported when a folder needs it.
"""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from contagg.checkpoints.locate import HEADER_LIMIT
from contagg.errors import UserError, printable

_INTERPOLATIONS = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""By PIL's numbers, which transformers writes."""


class OfImages(nn.Module):
    """A model of transformers as any other: images (B, C, H, W) in, the last hidden state out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.config = model.config

    def forward(self, images: Tensor) -> Tensor:
        return self.model(pixel_values=images).last_hidden_state


def is_transformers(folder: str | Path) -> bool:
    """Whether a folder's config.json is of a model of transformers."""
    config = _read(Path(folder) / "config.json")
    return "model_type" in config and "architecture" not in config


def open_transformers(folder: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """The part of a model that sees images, in eval mode, and how its images are prepared.

    Raises:
        UserError: the folder's weights are no safetensors, its model is none of transformers' own or sees no images.
    """
    folder = Path(folder)
    name = repr(str(folder))
    if not (folder / "model.safetensors").is_file():
        raise UserError(f"{name}: model.safetensors is missing; save the model with save_pretrained")
    try:
        library: Any = importlib.import_module("transformers")
    except ImportError as error:
        raise UserError(f"{name} is transformers': install it with pip install 'contagg[detection]'") from error
    kind = printable(str(_read(folder / "config.json")["model_type"]))
    try:
        config = library.AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
        config = getattr(config, "vision_config", config)
        model = library.AutoModel.from_pretrained(
            str(folder), config=config, use_safetensors=True, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # a stranger's file may hold anything at any place
        reason = printable(str(error).splitlines()[0] if str(error) else type(error).__name__)
        raise UserError(f"{name}: transformers cannot open its {kind!r}: {reason}") from error
    if getattr(model, "main_input_name", "") != "pixel_values":
        raise UserError(f"{name}: a {kind!r} of transformers takes {model.main_input_name}, not images")
    return OfImages(model.eval()), _preprocessing(folder, config)


def _preprocessing(folder: Path, config: Any) -> dict[str, Any]:
    """Of preprocessor_config.json and the size in the model's own config, as far as they say it."""
    said = _read(folder / "preprocessor_config.json")
    side = _side(getattr(config, "image_size", None)) or _side(said.get("crop_size")) or _side(said.get("size")) or 224
    found: dict[str, Any] = {"input_size": (getattr(config, "num_channels", 3), *_two(side))}
    for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
        if isinstance(said.get(theirs), list):
            found[ours] = [float(value) for value in said[theirs]]
    found["interpolation"] = _INTERPOLATIONS.get(said.get("resample", 3), "bicubic")
    return found


def _side(size: Any) -> int | tuple[int, int] | None:
    if isinstance(size, Mapping):
        size = size.get("shortest_edge") or (size.get("height"), size.get("width"))
    if isinstance(size, list | tuple) and len(size) == 2 and all(isinstance(each, int) for each in size):
        return size[0], size[1]
    return size if isinstance(size, int) else None


def _two(side: int | tuple[int, int]) -> tuple[int, int]:
    return (side, side) if isinstance(side, int) else side


def _read(path: Path) -> dict[str, Any]:
    """A file of JSON; {} where there is none or it holds something else."""
    try:
        with path.open("rb") as file:
            said = json.loads(file.read(HEADER_LIMIT))
    except (OSError, ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}
