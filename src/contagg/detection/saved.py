"""A detector's weights file says what it is of: the detector, its categories, the size of its images."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from contagg.checkpoints.bounded import described_by
from contagg.checkpoints.fitting import load_into
from contagg.checkpoints.weights import read_weights
from contagg.data.coco.annotations import Category, differing
from contagg.data.coco.config import CocoDataConfig, ResizingConfig
from contagg.detection.config import DetectorConfig
from contagg.detection.detectors import Detector, build_detector
from contagg.detection.detr.config import SetConfig
from contagg.errors import UserError, plural

TASK = "detection"


@dataclass(frozen=True)
class Saved:
    """A detector in evaluation mode, which it is, and what it was made for."""

    model: Detector
    detector: str
    categories: tuple[Category, ...]
    resizing: ResizingConfig
    bit_depth: int | None


def describe(
    model: DetectorConfig, categories: Sequence[Category], resizing: ResizingConfig, bit_depth: int | None = None
) -> dict[str, Any]:
    """What the weights file says of itself."""
    return {
        "task": TASK,
        "detector": asdict(replace(model, init_weights=None, init_ema=False, pretrained=False, norm="train")),
        "categories": [asdict(category) for category in categories],
        "class_names": [category.name for category in categories],
        "resizing": asdict(resizing),
        "bit_depth": bit_depth,
    }


def load_detector(path: Path) -> Saved:
    """Read a detector back. UserError for a file of something else, or one that is not whole."""
    state, metadata = read_weights(path)
    if metadata.get("task") != TASK:
        raise UserError(f"{path} is of the task {metadata.get('task')!r}, not of a detector")
    with described_by(repr(str(path)), state):
        # What a run began from is neither fetched nor read again, whatever the file says.
        described = {**metadata["detector"], "init_weights": None, "pretrained": False, "norm": "train"}
        config = DetectorConfig(**{**described, "detr": SetConfig(**described.get("detr", {}))})
        categories = tuple(Category(**category) for category in metadata["categories"])
        model = build_detector(config, len(categories))
        resizing = _resizing(metadata["resizing"])
        bit_depth = CocoDataConfig(root="", bit_depth=metadata.get("bit_depth")).bit_depth
    load_into(model, state, repr(str(path)))
    return Saved(model.eval(), config.detector, categories, resizing, bit_depth)


def _resizing(content: Mapping[str, Any]) -> ResizingConfig:
    lists: Any = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    return ResizingConfig(**lists)


def check_categories(trained: Sequence[Category], given: Sequence[Category], path: Path) -> None:
    """UserError unless the data's categories, ids and names, are those that the detector was trained for."""
    if found := differing(trained, ("the file", "the data"), given):
        raise UserError(
            f"{path} finds {plural(len(trained), 'category', 'categories')} and the data declare {len(given)}: "
            f"{found}; take the data that it was trained on, or train anew"
        )
