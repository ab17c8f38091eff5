import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pycocotools.coco import COCO

from contagg.data.coco.annotations import Category, differing, read_annotations
from contagg.data.fingerprint import Fingerprint
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
    assert found.objects(0) == [] and [entry["id"] for entry in found.objects(1)] == [3, 5]
    truth = found.ground_truth([0, 1])
    assert truth["annotations"][0]["area"] == 32 and truth["annotations"][1]["iscrowd"] == 1
    assert {entry["image_id"] for entry in truth["annotations"]} == {7}


@pytest.mark.parametrize("box", [[5, 5, 0, 4], [5, 5, 4, 0], [30, 5, 1, 4], [5, -0.5, 4, 0.5]])
def test_boxes_without_a_part_in_the_image_are_counted(
    box: list[float], content: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content["annotations"][0] |= {"bbox": box, "segmentation": []}
    found = read(content, tmp_path)
    assert found.thin == 1 and "1 box without width or height: nothing learns" in caplog.text
    assert [entry["id"] for entry in found.objects(1)] == [3, 5]


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
    "image 70: it has no 'file_name'": lambda content: content["images"][0].pop("file_name"),
    "image 70 is 20 x 1000000000 pixels: from 1 to": lambda content: content["images"][0].update(width=10**9),
    "image b.jpg: the RLE is broken: its text has the letter": annotation(
        "segmentation", {"size": [20, 30], "counts": "\ud800"}
    ),
    "image 70 is 0 x 30 pixels": lambda content: content["images"][0].update(height=0),
    "image 70 is missing: no .*gone.jpg": lambda content: content["images"][0].update(file_name="gone.jpg"),
    "image 70 is said to be '../x/a.png': nothing outside": lambda content: content["images"][0].update(
        file_name="../x/a.png"
    ),
    "image 70 is said to be '/etc/a.png': nothing outside": lambda content: content["images"][0].update(
        file_name="/etc/a.png"
    ),
    "image 70 is missing: no .*xxx": lambda content: content["images"][0].update(file_name="x" * 300 + "/y.png"),
    "image 70 is missing: no .*zzz": lambda content: content["images"][0].update(file_name="z" * 6000),
    r"image 70 is missing: no .*a\\x00b": lambda content: content["images"][0].update(file_name="a\0b/c.png"),
    "there is no image 8": annotation("image_id", 8),
    "category 4 is not declared": annotation("category_id", 4),
    "must be four finite numbers .*, not": annotation("bbox", [1, 2, 3]),
    "must be four finite numbers .* nan": annotation("bbox", [1, 2, float("nan"), 3]),
    "must be four finite numbers .*, not .True": annotation("bbox", [True, 1, 2, 3]),
    "its area must be a finite number of pixels, not True": annotation("area", True),
    "its 'category_id' must be a whole number, not True": annotation("category_id", True),
    "its 'image_id' must be a whole number, not False": annotation("image_id", False),
    "a polygon must be finite numbers": annotation("segmentation", [[True, 1, 9, 1, 9, 9]]),
    "an RLE's counts must be whole numbers": annotation("segmentation", {"size": [20, 30], "counts": [True, 599]}),
    "negative width or height": annotation("bbox", [9, 2, -3, 3]),
    "image b.jpg: its box .* lies outside the 30 x 20 pixels by 3; data.clip_boxes": annotation("bbox", [25, 2, 8, 3]),
    "annotation 3, image b.jpg: it has no segmentation, which Mask R-CNN learns from": annotation("segmentation", []),
    "annotation 3, image b.jpg: the RLE is broken": annotation("segmentation", {"size": [20, 30], "counts": [5]}),
    r"annotation \[3\]: its 'id' must be a whole number, not \[3\]": annotation("id", [3]),
    "annotation 3: its 'image_id' must be a whole number, not .7.": annotation("image_id", [7]),
    "annotation 3: its 'category_id' must be a whole number, not '9'": annotation("category_id", "9"),
    "image b.jpg: its area must be a finite number of pixels, not nan": annotation("area", float("nan")),
    "image b.jpg: its area must be a finite number of pixels, not None": annotation("area", None),
    "image b.jpg: its area must be a finite number of pixels, not -5": annotation("area", -5),
    "image b.jpg: its iscrowd must be 0 or 1, not 'no'": annotation("iscrowd", "no"),
    "must be four finite numbers .*, not .1000000": annotation("bbox", [10**400, 1, 2, 3]),
    "image b.jpg: a polygon's x from 31 to 40 does not fit the image's 0 to 30": annotation(
        "segmentation", [[31, 1, 40, 1, 40, 9]]
    ),
    "annotation 3, image b.jpg: it has no 'bbox'": lambda content: content["annotations"][0].pop("bbox"),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_content_is_named(message: str, content: dict[str, Any], tmp_path: Path) -> None:
    BAD[message](content)
    with pytest.raises(UserError, match=message):
        read(content, tmp_path)


def test_all_faults_are_said_together(content: dict[str, Any], tmp_path: Path) -> None:
    entry = content["annotations"][0]
    content["annotations"] = [entry | {"id": number, "bbox": [1, 2, 3]} for number in range(5)]
    content["annotations"].append(entry | {"id": 9, "image_id": 70})
    content["images"][0]["file_name"] = "gone.jpg"
    content["categories"].append({"id": 9, "name": "again"})
    with pytest.raises(UserError) as raised:
        read(content, tmp_path)
    told = str(raised.value)
    assert (
        "has 7 faults: category" in told and "; image 70 is missing" in told and "; annotation 0, image b.jpg" in told
    )
    assert told.endswith("; and 4 more") and len(told) - len(str(tmp_path)) < 450


def test_all_faults_of_an_annotation_are_said(content: dict[str, Any], tmp_path: Path) -> None:
    content["annotations"][0] |= {"category_id": 4, "bbox": [1, 2, 3], "area": -5}
    with pytest.raises(UserError) as raised:
        read(content, tmp_path)
    for part in (
        "has 3 faults: annotation 3: category 4 is not declared; ",
        "annotation 3, image b.jpg: its box must be four finite numbers x, y, width, height, not [1, 2, 3]; ",
        "annotation 3, image b.jpg: its area must be a finite number of pixels, not -5",
    ):
        assert part in str(raised.value)
    content["annotations"] = [[5]]
    with pytest.raises(UserError, match=r"instances.json: annotation \[5\]: it has no 'id'"):
        read(content, tmp_path)


def test_whole_numbers_written_as_floats_and_ids_as_texts_are_taken(content: dict[str, Any], tmp_path: Path) -> None:
    content["images"][1] |= {"id": "b7", "height": 20.0, "width": 30.0}
    for entry in content["annotations"]:
        entry |= {"image_id": "b7", "category_id": float(entry["category_id"])}
    content["annotations"][1]["id"] = "late"
    found = read(content, tmp_path)
    assert found.images[1].id == "b7" and found.images[1].height == 20
    assert [entry["category_id"] for entry in found.objects(1)] == [9, 2]
    content["categories"][0]["id"] = 9.5
    with pytest.raises(UserError, match=r"category .*: its 'id' must be a whole number, not 9.5"):
        read(content, tmp_path)


def test_a_missing_area_is_that_of_the_mask(content: dict[str, Any], tmp_path: Path) -> None:
    """Width by height would put an object of 1,600 pixels, half of them its own, among the large ones."""
    triangle = [[0.0, 0.0, 20.0, 0.0, 0.0, 20.0]]
    content["annotations"][0] |= {"bbox": [0, 0, 20, 20], "segmentation": triangle}
    content["annotations"][0].pop("area")
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = content
        data.createIndex()
    expected = data.annToMask(content["annotations"][0]).sum()
    assert 190 <= expected <= 210
    for masks in (False, True):
        assert read(content, tmp_path, masks).objects(1)[0]["area"] == expected
    content["annotations"][0]["segmentation"] = []
    assert read(content, tmp_path, masks=False).objects(1)[0]["area"] == 400


def test_segmentations_that_are_not_needed_are_not_looked_at(content: dict[str, Any], tmp_path: Path) -> None:
    for broken in ([[]], True, {"counts": [1]}, [[1, 2, 3, 4, 5, 6, 7]]):
        content["annotations"][0]["segmentation"] = broken
        assert read(content, tmp_path, masks=False).objects(1)[0]["area"] == 32
    content["annotations"][0].pop("area")
    with pytest.raises(UserError, match=r"annotation 3, image b.jpg: a polygon must be"):
        read(content, tmp_path, masks=False)


def test_boxes_may_leave_the_image_by_as_much_as_is_said(content: dict[str, Any], tmp_path: Path) -> None:
    content["annotations"][0]["bbox"] = [-3, 2, 20, 20]
    with pytest.raises(UserError, match=r"by 3; data.clip_boxes allows some"):
        read(content, tmp_path)
    found = read_annotations(tmp_path / "instances.json", tmp_path, clip_boxes=3)
    assert found.objects(1)[0]["bbox"] == [-3, 2, 20, 20]


def test_what_a_run_went_on_with_is_named(content: dict[str, Any], tmp_path: Path) -> None:
    def now() -> Fingerprint:
        return Fingerprint(["early", "late"], training=read(content, tmp_path).listing())

    before = now().state_dict()
    assert now().difference(before) == ""
    content["annotations"][0]["segmentation"][0][0] = 2.0
    assert now().difference(before) == "1 of 2 training images are not labelled as they were, the first b.jpg"
    content["annotations"][0]["segmentation"][0][0] = 1.0
    (tmp_path / "a.jpg").write_text("another picture")
    assert "are not of the size or pixels they had, the first a.jpg" in now().difference(before)


def test_categories_that_differ_are_named_by_which() -> None:
    one = [Category(1, "cat"), Category(2, "dog"), Category(5, "cow")]
    assert differing(one, ("a", "b"), one) == ""
    other = [Category(1, "cat"), Category(2, "Dog"), Category(7, "emu")]
    assert (
        differing(one, ("a", "b"), other)
        == "2 is 'dog' in a and 'Dog' in b; 5 'cow' is only in a; 7 'emu' is only in b"
    )


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
