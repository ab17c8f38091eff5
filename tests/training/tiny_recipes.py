"""Recipes of runs of seconds: self-supervision and detection; that of classification is in fit_processes.py."""

from pathlib import Path
from typing import Any

DINO: dict[str, Any] = {
    "task": "dino",
    "model": {
        "name": "container_light_tiny",
        "image_size": 16,
        "channels": 1,
        "drop_path": 0.3,
        "options": {"embed_dims": [8, 8, 16, 32], "patch_sizes": [2, 2, 2, 1], "depths": [1, 1, 1, 2]},
    },
    "data": {"name": "digits", "fraction": 0.07},
    "crops": {"local_size": 8, "local_count": 2, "blur_sigma": [0.1, 1.0]},
    "dino": {"outputs": 32, "hidden": 24, "bottleneck": 8, "teacher_momentum": 0.9},
    "optimization": {"epochs": 3, "warmup_epochs": 1, "batch_size": 14, "lr": 0.003, "lr_batch_size": None},
    "knn": {"every": 1, "neighbours": [3, 10], "crop_fraction": 1.0},
    "run": {"workers": 0, "accelerator": "cpu", "checkpoint_minutes": 0},
}
"""Seven batches an epoch of 100 images; a state is saved after every step."""


def detection(data: Path) -> dict[str, Any]:
    """Six batches an epoch of 30 images with objects; a state is saved after every step."""
    return {
        "task": "detection",
        "model": {
            "detector": "mask_rcnn", "backbone": "container_light_tiny", "norm": "train", "pyramid_channels": 8,
            "anchor_size": 16, "proposals": 20, "sampled_proposals": 8, "drop_path": 0.3,
            "options": {"embed_dims": [8, 8, 16, 32], "depths": [1, 1, 1, 2]},
        },
        "data": {"root": str(data)},
        "augmentation": {"short_sides": [48, 64], "long_side": 96},
        "optimization": {"epochs": 2, "batch_size": 5, "milestones": [], "warmup_steps": 2},
        "run": {"accelerator": "cpu", "workers": 0, "checkpoint_minutes": 0, "keep_last": 3, "loggers": []},
    }  # fmt: skip
