import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.path import Path as Outline
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from contagg.data.coco.annotations import read_annotations
from contagg.data.coco.config import ResizingConfig
from contagg.data.coco.dataset import (
    CocoImages,
    TransformedImages,
    View,
    draw_view,
    evaluation_transform,
    resized,
    training_transform,
)
from contagg.data.coco.loaders import evaluation_loader, train_loader
from contagg.data.coco.masks import to_mask, to_rle
from contagg.data.decode import UnreadableSampleError
from contagg.data.sampling import IGNORE_INDEX
from contagg.errors import UserError


@pytest.fixture
def images(composed: Path) -> CocoImages:
    path = composed / "annotations/instances_train2017.json"
    return CocoImages(read_annotations(path, composed / "train2017", needs_masks=True), masks=True)


def tight(mask: torch.Tensor) -> list[int]:
    rows, columns = torch.nonzero(mask, as_tuple=True)
    return [columns.min().item(), rows.min().item(), columns.max().item() + 1, rows.max().item() + 1]


def whole(image: torch.Tensor, target: dict) -> tuple[torch.Tensor, dict]:
    """At the file's size, masks laid out."""
    side = min(image.shape[1:])
    return evaluation_transform(ResizingConfig(short_sides=(side,), long_side=max(image.shape[1:])))(image, target)


def test_targets_fit_their_images(images: CocoImages) -> None:
    empty = crowds = 0
    for index in range(len(images)):
        image, target = images[index]
        _, target = whole(image, target)
        objects = images.annotations.objects(index)
        crowds += sum(annotation["iscrowd"] for annotation in objects)
        assert image.dtype == torch.uint8 and image.shape[0] == 3
        assert len(target["boxes"]) == len(target["labels"]) == len(target["masks"])
        assert len(target["boxes"]) == sum(not annotation["iscrowd"] for annotation in objects)
        assert target["masks"].shape[1:] == image.shape[1:] == target["original_size"]
        for box, mask in zip(target["boxes"].tolist(), target["masks"], strict=True):
            assert box == tight(mask)
        empty += not len(target["boxes"])
    assert empty and crowds


def test_boxes_are_clipped_to_their_image(composed: Path, tmp_path: Path) -> None:
    content = json.loads((composed / "annotations/instances_train2017.json").read_text())
    annotation = next(entry for entry in content["annotations"] if not entry["iscrowd"])
    image = next(entry for entry in content["images"] if entry["id"] == annotation["image_id"])
    annotation["bbox"] = [-0.6, -0.7, image["width"] + 1.4, image["height"] + 1.6]
    path = tmp_path / "beyond.json"
    path.write_text(json.dumps(content | {"images": [image], "annotations": [annotation]}))
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
    strip = (torch.zeros(3, 2, 4000, dtype=torch.uint8), {"image_id": 77})
    with pytest.raises(UserError, match=r"an image of 2 x 4000 pixels cannot be resized to 256 at its longer side"):
        resized((2, 4000), 128, 256)
    data = TransformedImages([strip], evaluation_transform(ResizingConfig(short_sides=(128,), long_side=256)))
    with pytest.raises(UserError, match=r"image 77: an image of 2 x 4000 pixels"):
        data[(0, None)]


def test_boxes_that_become_too_thin_go_with_their_labels_and_masks() -> None:
    size = (400, 400)
    target = {
        "boxes": tv_tensors.BoundingBoxes([[3, 5, 4, 300], [10, 10, 90, 90.0]], format="XYXY", canvas_size=size),
        "labels": torch.tensor([5, 6]),
        "segmentations": [[[3.0, 5, 4, 5, 4, 300]], [[10.0, 10, 90, 10, 90, 90]]],
    }
    image = tv_tensors.Image(torch.zeros(3, *size, dtype=torch.uint8))
    _, kept = training_transform(ResizingConfig(short_sides=(96,), long_side=96))(image, target)
    assert kept["labels"].tolist() == [6] and len(kept["masks"]) == len(kept["boxes"]) == 1


def star(random: np.random.Generator, size: tuple[int, int]) -> list[float]:
    """A polygon that winds around a place, partly beyond the image."""
    angles = np.sort(random.uniform(0, 2 * np.pi, 17))
    radii = random.uniform(0.2, 0.7, 17) * min(size)
    centre = random.uniform(0.2, 0.8, 2) * (size[1], size[0])
    points = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    return points.clip(-0.5 * np.array(size[::-1]), 1.5 * np.array(size[::-1])).ravel().tolist()


def beyond_doubt(polygons: list[np.ndarray], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Where a pixel's centre is further than a pixel from every edge of polygons (N, 2), and whether it lies inside."""
    rows, columns = np.indices(size) + 0.5
    centres = np.stack([columns.ravel(), rows.ravel()], 1)
    inside, far = np.zeros(len(centres), bool), np.full(len(centres), np.inf)
    for polygon in polygons:
        inside |= Outline(polygon).contains_points(centres)
        for one, other in zip(polygon, np.roll(polygon, -1, 0), strict=True):
            along = (((centres - one) @ (other - one)) / max(((other - one) ** 2).sum(), 1e-12)).clip(0, 1)
            far = np.minimum(far, np.hypot(*(centres - one - along[:, None] * (other - one)).T))
    return (far > 1).reshape(size), inside.reshape(size)


@pytest.mark.parametrize("seed", range(12))
def test_scaled_polygons_are_what_they_outline_and_what_full_masks_resized_were(seed: int) -> None:
    """Right wherever no edge is nearer than a pixel; torchvision's flip, crop and resize of the file's mask agree."""
    random, size = np.random.default_rng(seed), (307, 211)
    config = ResizingConfig(
        short_sides=(53, 97, 331), long_side=499, crop=0.5, crop_short_sides=(149, 223), crop_sides=(67, 131)
    )
    torch.manual_seed(seed)
    view = draw_view(config, size)
    polygons = [star(random, size), star(random, size)]
    full = to_mask(polygons, size)
    found = view.mask(polygons).astype(bool)
    assert found.shape == view.final

    points = [np.array(polygon).reshape(-1, 2) for polygon in polygons]
    if view.mirrored:
        points = [[size[1], 0] + some * [-1, 1] for some in points]
    enlarged, part = view.enlarged or size, view.part or (0, 0, *size)
    if view.part:
        points = [some * [enlarged[1] / size[1], enlarged[0] / size[0]] - [part[1], part[0]] for some in points]
    points = [some * [view.final[1] / part[3], view.final[0] / part[2]] for some in points]
    sure, inside = beyond_doubt(points, view.final)
    assert sure.mean() > 0.5 and np.array_equal(found[sure], inside[sure])

    oracle = tv_tensors.Mask(full[None])
    oracle = F.horizontal_flip(oracle) if view.mirrored else oracle
    if view.part:
        oracle = F.crop(F.resize(oracle, list(enlarged)), *part)
    resampled = F.resize(oracle, list(view.final))[0].numpy().astype(bool)
    assert (found & resampled).sum() >= 0.9 * (found | resampled).sum()
    assert np.array_equal(view.mask(to_rle(full)).astype(bool), resampled)


def test_masks_of_a_large_photograph_are_never_laid_out_at_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """3000 x 4000 pixels with 60 polygons took 0.7 GB and seconds at each reading."""
    laid_out = []
    module = __import__("contagg.data.coco.dataset", fromlist=["decoded"])
    real = module.decoded
    monkeypatch.setattr(module, "decoded", lambda some, size: laid_out.append(size) or real(some, size))
    view = View((3000, 4000), (750, 1000))
    random = np.random.default_rng(0)
    polygons = [[star(random, (3000, 4000))] for _ in range(60)]
    boxes = tv_tensors.BoundingBoxes([[0.0, 0, 4000, 3000]] * 60, format="XYXY", canvas_size=(3000, 4000))
    image = tv_tensors.Image(torch.zeros(3, 3000, 4000, dtype=torch.uint8))
    target = {"boxes": boxes, "labels": torch.zeros(60, dtype=torch.int64), "segmentations": polygons}
    _, shown = evaluation_transform(ResizingConfig(short_sides=(750,), long_side=1333))(image, target)
    assert shown["masks"].shape == (60, *view.final) and laid_out == [view.final] * 60


def test_the_key_decides_how_an_image_is_varied(images: CocoImages) -> None:
    data = TransformedImages(images, training_transform(ResizingConfig(short_sides=(64, 72, 96), long_side=128)))
    first, again = data[(3, 11)], data[(3, 11)]
    assert first is not None and again is not None and torch.equal(first[0], again[0])
    assert len({data[(3, key)][0].shape for key in range(20)}) == 3  # type: ignore[index]
    assert data[(IGNORE_INDEX, None)] is None


def data_of(folder: Path, files: dict[str, tuple[int, int]], *, masks: bool = False) -> CocoImages:
    """A JSON of images in `folder` with the sizes that it says, an object in each."""
    content = {
        "images": [{"id": n, "file_name": f, "height": h, "width": w} for n, (f, (h, w)) in enumerate(files.items())],
        "annotations": [{"id": n, "image_id": n, "category_id": 1, "bbox": [1, 1, 3, 4]} for n in range(len(files))],
        "categories": [{"id": 1, "name": "cell"}],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return CocoImages(read_annotations(path, folder), masks)


def test_images_of_another_size_are_named(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((6, 9), np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(np.zeros((6, 9, 4), np.uint8)).save(tmp_path / "clear.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter
    Image.fromarray(np.zeros((9, 6, 3), np.uint8)).save(tmp_path / "turned.jpg", exif=turned)
    good = data_of(tmp_path, {"grey.png": (6, 9), "clear.png": (6, 9), "turned.jpg": (6, 9)})
    for index in range(3):
        assert good[index][0].shape == (3, 6, 9)
    bad = data_of(tmp_path, {"grey.png": (6, 10), "turned.jpg": (9, 6)})
    with pytest.raises(UserError, match=r"grey.png is 6 x 9 pixels, its annotations say 6 x 10$"):
        bad[0]
    with pytest.raises(UserError, match=r"turned.jpg is 6 x 9 pixels, its annotations say 9 x 6: .* its EXIF turns it"):
        bad[1]


def test_an_image_that_cannot_be_read_ends_neither_training_nor_evaluation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = {f"{number}.png": (16, 16) for number in range(8)}
    for number, name in enumerate(files):
        Image.fromarray(np.full((16, 16, 3), number, np.uint8)).save(tmp_path / name)
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:60])
    images = data_of(tmp_path, files)
    with pytest.raises(UnreadableSampleError, match=r"3.png"):
        images[3]
    config = ResizingConfig(short_sides=(32,), long_side=64)
    for workers in (0, 1):
        loader = train_loader(images, training_transform(config), 4, workers, 0, max_corrupt_fraction=0.2)
        pictures = [target["image_id"] for _, targets in loader for target in targets]
        assert len(pictures) == 8 and 3 not in pictures
        loader = evaluation_loader(images, evaluation_transform(config), 4, workers, max_corrupt_fraction=0.2)
        assert [target["image_id"] for _, targets in loader for target in targets] == [0, 1, 2, 4, 5, 6, 7]
        assert loader.unreadable == [3]
    assert "skipped an image that cannot be read" in caplog.text
    with pytest.raises(UserError, match=r"1 of 8 images cannot be read, more than .* 0.1 .*3.png"):
        list(train_loader(images, training_transform(config), 4, 0, 0, max_corrupt_fraction=0.1))
