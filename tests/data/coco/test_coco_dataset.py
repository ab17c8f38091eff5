import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from contagg.data.coco.annotations import read_annotations
from contagg.data.coco.config import ResizingConfig
from contagg.data.coco.dataset import (
    CocoImages,
    ShortestSide,
    TransformedImages,
    evaluation_transform,
    read_image,
    training_transform,
)
from contagg.data.sampling import IGNORE_INDEX
from contagg.errors import UserError


@pytest.fixture
def images(composed: Path) -> CocoImages:
    path = composed / "annotations/instances_train2017.json"
    return CocoImages(read_annotations(path, composed / "train2017", needs_masks=True), masks=True)


def tight(mask: torch.Tensor) -> list[int]:
    rows, columns = torch.nonzero(mask, as_tuple=True)
    return [columns.min().item(), rows.min().item(), columns.max().item() + 1, rows.max().item() + 1]


def test_targets_fit_their_images(images: CocoImages) -> None:
    empty = crowds = 0
    for index in range(len(images)):
        image, target = images[index]
        objects = images.annotations.objects(index)
        crowds += sum(thing["iscrowd"] for thing in objects)
        assert image.dtype == torch.uint8 and image.shape[0] == 3
        assert len(target["boxes"]) == len(target["labels"]) == len(target["masks"])
        assert len(target["boxes"]) == sum(not thing["iscrowd"] for thing in objects)
        assert target["masks"].shape[1:] == image.shape[1:] == target["original_size"]
        for box, mask in zip(target["boxes"].tolist(), target["masks"], strict=True):
            assert box == tight(mask)
        empty += not len(target["boxes"])
    assert empty and crowds


def test_boxes_are_clipped_to_their_image(composed: Path, tmp_path: Path) -> None:
    content = json.loads((composed / "annotations/instances_train2017.json").read_text())
    thing = next(entry for entry in content["annotations"] if not entry["iscrowd"])
    image = next(entry for entry in content["images"] if entry["id"] == thing["image_id"])
    thing["bbox"] = [-0.6, -0.7, image["width"] + 1.4, image["height"] + 1.6]
    path = tmp_path / "beyond.json"
    path.write_text(json.dumps(content | {"images": [image], "annotations": [thing]}))
    _, target = CocoImages(read_annotations(path, composed / "train2017"), masks=False)[0]
    assert target["boxes"].tolist() == [[0, 0, image["width"], image["height"]]]


def test_flips_move_image_boxes_and_masks_together(images: CocoImages) -> None:
    flip = training_transform(ResizingConfig(short_sides=(72,), long_side=96, horizontal_flip=1.0))
    index = next(i for i in range(len(images)) if len(images[i][1]["boxes"]) > 2)
    image, target = images[index]
    flipped, moved = flip(image, target)
    scale = flipped.shape[2] / image.shape[2]
    assert torch.equal(flipped, F.resize(image.flip(2), list(flipped.shape[1:]), antialias=True))
    for box, before in zip(moved["boxes"], target["boxes"], strict=True):
        left, top, right, bottom = (scale * before).tolist()
        torch.testing.assert_close(
            torch.as_tensor(box), torch.tensor([flipped.shape[2] - right, top, flipped.shape[2] - left, bottom])
        )
    if scale == 1:
        for box, mask in zip(moved["boxes"].tolist(), moved["masks"], strict=True):
            assert box == tight(mask)


@pytest.mark.parametrize(
    ("size", "expected"), [((480, 640), (800, 1067)), ((427, 1280), (445, 1333)), ((40, 30), (1067, 800))]
)
def test_the_shorter_side_is_800_unless_the_longer_would_be_more_than_1333(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    image = tv_tensors.Image(torch.zeros(3, *size, dtype=torch.uint8))
    boxes = tv_tensors.BoundingBoxes([[3.0, 5.0, 27.0, 21.0]], format="XYXY", canvas_size=size)
    resized, target = evaluation_transform(ResizingConfig())(image, {"boxes": boxes})
    assert resized.shape[1:] == expected
    ratio = torch.tensor([expected[1] / size[1], expected[0] / size[0]]).repeat(2)
    torch.testing.assert_close(torch.as_tensor(target["boxes"][0]), ratio * torch.tensor([3.0, 5.0, 27.0, 21.0]))


def test_an_image_that_would_vanish_is_named() -> None:
    with pytest.raises(UserError, match=r"an image of 2 x 4000 pixels cannot be resized to 256 at its longer side"):
        ShortestSide((128,), 256)(torch.zeros(3, 2, 4000, dtype=torch.uint8), {})
    data = TransformedImages(
        [(torch.zeros(3, 2, 4000, dtype=torch.uint8), {"image_id": 77})], ShortestSide((128,), 256)
    )
    with pytest.raises(UserError, match=r"image 77: an image of 2 x 4000 pixels"):
        data[(0, None)]


def test_boxes_that_become_too_thin_go_with_their_labels_and_masks() -> None:
    size = (400, 400)
    target = {
        "boxes": tv_tensors.BoundingBoxes([[3, 5, 4, 300], [10, 10, 90, 90.0]], format="XYXY", canvas_size=size),
        "labels": torch.tensor([5, 6]),
        "masks": tv_tensors.Mask(torch.ones(2, *size, dtype=torch.uint8)),
    }
    image = tv_tensors.Image(torch.zeros(3, *size, dtype=torch.uint8))
    _, kept = training_transform(ResizingConfig(short_sides=(96,), long_side=96))(image, target)
    assert kept["labels"].tolist() == [6] and len(kept["masks"]) == len(kept["boxes"]) == 1


def test_the_key_decides_how_an_image_is_varied(images: CocoImages) -> None:
    data = TransformedImages(images, training_transform(ResizingConfig(short_sides=(64, 72, 96), long_side=128)))
    first, again = data[(3, 11)], data[(3, 11)]
    assert first is not None and again is not None and torch.equal(first[0], again[0])
    assert len({data[(3, key)][0].shape for key in range(20)}) == 3  # type: ignore[index]
    assert data[(IGNORE_INDEX, None)] is None


def test_images_that_do_not_fit_are_named(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((6, 9), np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(np.zeros((6, 9, 4), np.uint8)).save(tmp_path / "clear.png")
    for name in ("grey.png", "clear.png"):
        assert read_image(tmp_path / name, (6, 9)).shape == (3, 6, 9)
    with pytest.raises(UserError, match=r"grey.png is 6 x 9 pixels, its annotations say 9 x 6"):
        read_image(tmp_path / "grey.png", (9, 6))
    with pytest.raises(UserError, match=r"there is no image .*gone.png"):
        read_image(tmp_path / "gone.png")
    content = (tmp_path / "grey.png").read_bytes()
    (tmp_path / "broken.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"broken.png' cannot be read"):
        read_image(tmp_path / "broken.png")
