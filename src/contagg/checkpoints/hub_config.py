"""How timm and the hub say in a config.json what weights are of, in our words and back. Needs no torch."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contagg.checkpoints.locate import HEADER_LIMIT
from contagg.errors import UserError

_MOST_CLASSES = 10**5

LARGEST_SIDE = 4096
"""Pixels that a file may have images resized to, before the centre is cut out too."""


def data_config(preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """How images are prepared, in timm's words; the whole image is `squash` there."""
    channels = preprocessing["input_size"][0]
    whole = preprocessing["crop"] == "padded"
    normalization = {
        key: preprocessing[key] if channels > 1 else [sum(preprocessing[key]) / len(preprocessing[key])]
        for key in ("mean", "std")
    }
    return {
        "input_size": tuple(preprocessing["input_size"]),
        "interpolation": preprocessing["interpolation"],
        "crop_pct": 1.0 if whole else preprocessing["crop_fraction"],
        "crop_mode": "squash" if whole else "center",
        **normalization,
    }


def preprocessing_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `data_config`; what timm leaves open takes timm's defaults."""
    interpolation = config.get("interpolation", "bicubic")
    return {
        "input_size": list(config.get("input_size", (3, 224, 224))),
        "mean": list(config.get("mean", (0.485, 0.456, 0.406))),
        "std": list(config.get("std", (0.229, 0.224, 0.225))),
        "crop": "padded" if config.get("crop_mode") == "squash" else "resized",
        "crop_fraction": config.get("crop_pct", 0.875),
        "interpolation": interpolation if interpolation in ("nearest", "bilinear") else "bicubic",
    }


def check_preprocessing(said: Any) -> None:
    """UserError for what is no description of how images are prepared, or of images larger than `LARGEST_SIDE`."""
    try:
        channels, *sides = said["input_size"]
        possible = [
            type(channels) is int and 1 <= channels <= 1000,
            len(sides) == 2 and all(type(side) is int and 1 <= side <= LARGEST_SIDE for side in sides),
            *(len(said[key]) in (1, 3, channels) and all(map(math.isfinite, said[key])) for key in ("mean", "std")),
            min(said["std"]) >= 1e-6,
            said["crop"] in ("resized", "padded"),
            max(sides) / LARGEST_SIDE <= said["crop_fraction"] <= 1,
            said["interpolation"] in ("nearest", "bilinear", "bicubic"),
            (depth := said.get("bit_depth")) is None or (type(depth) is int and 9 <= depth <= 16),
        ]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"preprocessing {said!r} does not say how images are prepared") from error
    if not all(possible):
        raise UserError(f"preprocessing {said!r} does not say how images up to {LARGEST_SIDE} pixels are prepared")


def read_folder(folder: Path) -> dict[str, Any]:
    """What a folder's config.json says of its weights, as our own files say it.

    Raises:
        UserError: it is not one of timm's.
    """
    path = folder / "config.json"
    try:
        with path.open("rb") as file:
            said = json.loads(file.read(HEADER_LIMIT))
        known = said.get("pretrained_cfg", said)
        if "architecture" not in said:
            raise UserError(
                f"{str(path)!r} is not timm's ({_kind(said)}): it names no architecture. Of many networks the hub has "
                "timm's form under timm/NAME"
            )
        classes = said.get("num_classes", known.get("num_classes", 1000))
        if type(classes) is not int or not 0 <= classes <= _MOST_CLASSES:
            raise UserError(f"{str(path)!r}: num_classes must be a number up to {_MOST_CLASSES}, not {classes!r}")
        names = said.get("label_names", known.get("label_names")) or [str(number) for number in range(classes)]
        size = tuple(known.get("input_size", (3, 224, 224)))
        options = {"num_classes": classes, "in_chans": size[0]}
        if known.get("fixed_input_size"):
            options["img_size"] = list(size[1:])
        return {
            "task": "classification",
            "model": {"name": said["architecture"], "options": {**options, **said.get("model_args", {})}},
            "class_names": list(names),
            "preprocessing": preprocessing_of(known),
        }
    except UserError:
        raise
    except Exception as error:  # a stranger's file may hold anything at any place
        raise UserError(f"{str(path)!r} is no description of timm's: {type(error).__name__}: {error}") from error


def _kind(said: Mapping[str, Any]) -> str:
    return f"transformers' {said['model_type']!r}" if "model_type" in said else "it is of another library"
