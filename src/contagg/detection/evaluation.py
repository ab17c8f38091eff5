"""Average precision and recall as COCO counts them, of boxes and of masks, over all processes.

A result is an entry of COCO's result files: image_id, category_id, score, and bbox [x, y, width, height], or a
segmentation as compressed run lengths. Masks become run lengths one image at a time, so that memory is bounded.
"""

import contextlib
import io
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from faster_coco_eval import COCO, COCOeval_faster
from torchvision.models.detection.roi_heads import paste_masks_in_image

from contagg.data.coco.annotations import CocoAnnotations
from contagg.data.coco.masks import to_rle
from contagg.detection.batching import Detections
from contagg.detection.detectors import Detector
from contagg.device import processes

Kind = Literal["box", "mask"]
Result = dict[str, Any]
Scores = dict[str, float]

NAMES = (
    "ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large",
    "ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large",
)  # fmt: skip
"""COCO's twelve numbers, in its order; each is given as `box_ap` and so on. -1 where there is nothing to find.

Beside them stands the average precision of each category as `box_ap/NAME`.
"""

_PASTED = 8  # masks laid out on the whole image at once


def in_file_pixels(found: Detections, size: Sequence[int], original: Sequence[int]) -> Detections:
    """What was found in an image of `size` (height, width), in the pixels of its file of `original` size."""
    scale = [original[1] / size[1], original[0] / size[0]] * 2
    return {**found, "boxes": found["boxes"] * found["boxes"].new_tensor(scale)}


def masks_of(found: Detections, size: Sequence[int]) -> Iterator[np.ndarray]:
    """The masks of detections on an image of `size` (height, width), one after the other: bool (H, W)."""
    for begin in range(0, len(found["boxes"]), _PASTED):
        part = slice(begin, begin + _PASTED)
        pasted = paste_masks_in_image(found["masks"][part].float(), found["boxes"][part].float(), tuple(size))
        yield from (pasted[:, 0] >= 0.5).cpu().numpy()


def results(
    found: Detections, image_id: int | str, size: Sequence[int], category_ids: Sequence[int]
) -> dict[Kind, list[Result]]:
    """Entries of result files for one image, given in the pixels of its file; `mask` only where there are masks."""
    common = [
        {"image_id": image_id, "category_id": category_ids[label], "score": score}
        for label, score in zip(found["labels"].tolist(), found["scores"].tolist(), strict=True)
    ]
    corners = found["boxes"].double().cpu().clone()
    corners[:, 2:] -= corners[:, :2]
    entries: dict[Kind, list[Result]] = {
        "box": [entry | {"bbox": box} for entry, box in zip(common, corners.tolist(), strict=True)]
    }
    if "masks" in found:
        # Without a box: the library would sort masks by the size of their boxes.
        masks = zip(common, masks_of(found, size), strict=True)
        entries["mask"] = [entry | {"segmentation": to_rle(mask)} for entry, mask in masks]
    return entries


def kinds_of(model: Detector) -> list[Kind]:
    """What a detector is judged by."""
    return ["box", "mask"] if model.masks else ["box"]


class Collected:
    """Results by image; an image that comes twice counts once.

    Attributes:
        unreadable: Places, among the annotations' images, of those that could not be read: they count nowhere.
    """

    def __init__(self) -> None:
        self.by_image: dict[int | str, dict[Kind, list[Result]]] = {}
        self.unreadable: set[int] = set()

    def add(self, image_id: int | str, entries: dict[Kind, list[Result]]) -> None:
        """Keep an image's entries."""
        self.by_image[image_id] = entries

    def gather(self) -> None:
        """Share with all processes, each image once."""
        if processes() > 1:
            parts: list[Any] = [None] * processes()
            dist.all_gather_object(parts, (self.by_image, self.unreadable))
            self.by_image = {image: entries for found, _ in parts for image, entries in found.items()}
            self.unreadable = {place for _, places in parts for place in places}

    def of_kind(self, kind: Kind) -> list[Result]:
        """All entries of a kind, by image id."""
        return [entry for image in sorted(self.by_image, key=_order) for entry in self.by_image[image].get(kind, [])]


def _order(image_id: int | str) -> tuple[bool, int | str]:
    """Numbers, then texts."""
    return isinstance(image_id, str), image_id


def score(annotations: CocoAnnotations, found: Collected, kinds: Iterable[Kind]) -> Scores:
    """COCO's numbers of each kind, and each category's, over the images of `annotations` that could be read.

    An image without an entry has no detections. Of each image and category the 100 best detections count, so that more
    than 100 an image are of use (pycocotools' `maxDets` does not limit an image).
    """
    places = [place for place in range(len(annotations.images)) if place not in found.unreadable]
    content = annotations.ground_truth(places)
    # The library takes numbers alone; equal scores stand in the order of the ids, as with pycocotools.
    numbers = {name: n for n, name in enumerate(sorted((image["id"] for image in content["images"]), key=_order))}
    content["images"] = [image | {"id": numbers[image["id"]]} for image in content["images"]]
    for entry in content["annotations"]:
        entry["image_id"] = numbers[entry["image_id"]]
    truth = _quietly(COCO, content)
    scores: Scores = {}
    for kind in kinds:
        entries = [entry | {"image_id": numbers[entry["image_id"]]} for entry in found.of_kind(kind)]
        evaluation = COCOeval_faster(
            truth, truth.loadRes(entries), "bbox" if kind == "box" else "segm", print_function=_silent
        )
        for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
            _quietly(step)
        values = [float(value) for value in evaluation.stats[:12]]
        scores |= {f"{kind}_{name}": value for name, value in zip(NAMES, values, strict=True)}
        precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (IoU, recall, category), any size, 100 detections
        for name, values in zip(annotations.unique_names, np.moveaxis(precision, 2, 0), strict=True):
            scores[f"{kind}_ap/{name}"] = float(values[values > -1].mean()) if (values > -1).any() else -1.0
    return scores


def score_together(annotations: CocoAnnotations, found: Collected, kinds: Sequence[Kind]) -> Scores:
    """`score` over what all processes found, computed once and sent to all."""
    found.gather()
    if processes() == 1:
        return score(annotations, found, kinds)
    shared: list[Any] = [score(annotations, found, kinds) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(shared, src=0)
    return shared[0]


def add_batch(
    collected: Collected,
    found: Sequence[Detections],
    images: Sequence[torch.Tensor],
    targets: Sequence[Mapping[str, Any]],
    category_ids: Sequence[int],
) -> None:
    """Turn what was found in a batch into results in the pixels of its files."""
    for detections, image, target in zip(found, images, targets, strict=True):
        original = target["original_size"]
        placed = in_file_pixels(detections, image.shape[1:], original)
        collected.add(target["image_id"], results(placed, target["image_id"], original, category_ids))


def _silent(*_: Any, **__: Any) -> None:
    """The library prints as it goes."""


def _quietly(function: Any, *arguments: Any) -> Any:
    logging.getLogger("faster_coco_eval").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*arguments)
