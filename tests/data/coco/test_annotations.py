import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contagg.data.coco.annotations import read_annotations
from contagg.errors import UserError

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def content(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "b.jpg").touch()
    square = [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]]
    return {
        "images": [
            {"id": 70, "file_name": "a.jpg", "height": 20, "width": 30},
            {"id": 7, "file_name": "b.jpg", "height": 20, "width": 30},
        ],
        "annotations": [
            {"id": 3, "image_id": 7, "category_id": 9, "bbox": [1, 1, 8, 8], "area": 32, "segmentation": square},
            {"id": 5, "image_id": 7, "category_id": 2, "bbox": [0, 0, 30, 20], "iscrowd": 1, "segmentation": square},
        ],
        "categories": [{"id": 9, "name": "late"}, {"id": 2, "name": "early"}],
    }


def read(content: dict[str, Any], folder: Path, masks: bool = True) -> Any:
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return read_annotations(path, folder, masks)


def test_ids_with_gaps_become_labels_and_come_back(content: dict[str, Any], tmp_path: Path) -> None:
    found = read(content, tmp_path)
    assert found.class_names == ("early", "late")
    assert found.label(2) == 0 and found.label(9) == 1
    assert [category.id for category in found.categories] == [2, 9]
    assert found.objects(0) == [] and [thing["id"] for thing in found.objects(1)] == [3, 5]
    truth = found.ground_truth([0, 1])
    assert truth["annotations"][0]["area"] == 32 and truth["annotations"][1]["iscrowd"] == 1
    assert {entry["image_id"] for entry in truth["annotations"]} == {7}


@pytest.mark.parametrize("box", [[5, 5, 0, 4], [5, 5, 4, 0], [30, 5, 1, 4], [5, -0.5, 4, 0.5]])
def test_boxes_without_a_part_in_the_image_are_counted(
    box: list[float], content: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content["annotations"][0] |= {"bbox": box, "segmentation": []}
    found = read(content, tmp_path)
    assert sum(found.dropped.values()) == 1 and "left out 1 boxes without width or height" in caplog.text
    assert [thing["id"] for thing in found.objects(1)] == [5]


def test_boxes_that_reach_a_little_beyond_the_image_are_evaluated_as_they_are(
    content: dict[str, Any], tmp_path: Path
) -> None:
    content["annotations"][1]["bbox"] = [-0.4, 2, 30.9, 18.5]
    found = read(content, tmp_path)
    assert found.ground_truth([1])["annotations"][1]["bbox"] == [-0.4, 2, 30.9, 18.5]


def annotation(key: str, value: Any) -> Change:
    return lambda content: content["annotations"][0].__setitem__(key, value)


BAD: dict[str, Change] = {
    "it has no list 'images'": lambda content: content.pop("images"),
    "its list 'categories' is empty": lambda content: content["categories"].clear(),
    "image 7: its id is given twice": lambda content: content["images"][0].update(id=7),
    "annotation 3: its id is given twice": lambda content: content["annotations"][1].update(id=3),
    "a str 'file_name' was expected": lambda content: content["images"][0].pop("file_name"),
    "image 70 is 0 x 30 pixels": lambda content: content["images"][0].update(height=0),
    "image 70 of .* is missing: no .*gone.jpg": lambda content: content["images"][0].update(file_name="gone.jpg"),
    "there is no image 8": annotation("image_id", 8),
    "category 4 is not declared": annotation("category_id", 4),
    "must be four finite numbers .*, not": annotation("bbox", [1, 2, 3]),
    "must be four finite numbers .* nan": annotation("bbox", [1, 2, float("nan"), 3]),
    "negative width or height": annotation("bbox", [9, 2, -3, 3]),
    "image b.jpg: its box .* lies outside the 30 x 20 pixels": annotation("bbox", [25, 2, 8, 3]),
    "annotation 3, image b.jpg: it has no segmentation, which Mask R-CNN learns from": annotation("segmentation", []),
    "annotation 3, image b.jpg: the RLE is broken": annotation("segmentation", {"size": [20, 30], "counts": [5]}),
    r"annotation \[3\]: its 'id' must be a whole number, not \[3\]": annotation("id", [3]),
    "annotation 3: its 'image_id' must be a whole number": annotation("image_id", [7]),
    "annotation 3: its 'category_id' must be a whole number, not '9'": annotation("category_id", "9"),
    "image b.jpg: its area must be a finite number of pixels, not nan": annotation("area", float("nan")),
    "image b.jpg: its area must be a finite number of pixels, not None": annotation("area", None),
    "image b.jpg: its area must be a finite number of pixels, not -5": annotation("area", -5),
    "image b.jpg: its iscrowd must be 0 or 1, not 'no'": annotation("iscrowd", "no"),
    "must be four finite numbers .*, not .1000000": annotation("bbox", [10**400, 1, 2, 3]),
    "image b.jpg: a polygon's x from 31 to 40 does not fit the image's 0 to 30": annotation(
        "segmentation", [[31, 1, 40, 1, 40, 9]]
    ),
    "annotation 3: it has no 'bbox'": lambda content: content["annotations"][0].pop("bbox"),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_content_is_named(message: str, content: dict[str, Any], tmp_path: Path) -> None:
    BAD[message](content)
    with pytest.raises(UserError, match=message):
        read(content, tmp_path)


def test_masks_are_asked_for_only_where_needed(content: dict[str, Any], tmp_path: Path) -> None:
    content["annotations"][0].pop("segmentation")
    assert len(read(content, tmp_path, masks=False).objects(1)) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "no readable JSON"), ("[1, 2]", "no COCO JSON"), ('{"images": 3}', "no list 'images'")],
)
def test_files_that_are_no_coco_are_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_annotations(path, tmp_path)


def test_missing_files_and_folders_are_named(content: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no annotations at"):
        read_annotations(tmp_path / "none.json", tmp_path)
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="no folder of images at"):
        read_annotations(tmp_path / "x.json", tmp_path / "none")
