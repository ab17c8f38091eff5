"""How timm describes a network that has no published weights under our names."""

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD


def untrained(first_convolution: str, classifier: str, fixed_input_size: bool = False) -> dict[str, Any]:
    """A timm `pretrained_cfg`: DeiT's preprocessing at 224 pixels, the names of the input and output layers."""
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "fixed_input_size": fixed_input_size,
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": first_convolution,
        "classifier": classifier,
        "license": "apache-2.0",
        "origin_url": "https://arxiv.org/abs/2106.01401",
    }
