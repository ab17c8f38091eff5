import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from contagg.data.coco.annotations import CocoAnnotations, read_annotations
from contagg.data.coco.masks import to_mask, to_rle
from contagg.detection import evaluation
from contagg.detection.evaluation import NAMES, Collected, in_file_pixels, masks_of, results, score, score_together


def annotations(folder: Path, split: str = "train") -> CocoAnnotations:
    return read_annotations(folder / f"annotations/instances_{split}2017.json", folder / f"{split}2017", True)


def imagined(truth: CocoAnnotations, seed: int = 0) -> Collected:
    """Detections near the truth: some moved, some wrong, some doubled, one image without any."""
    random = np.random.default_rng(seed)
    found = Collected()
    for index, image in enumerate(truth.images[1:], start=1):
        entries: dict = {"box": [], "mask": []}
        for annotation in truth.objects(index) * 2:
            if random.random() < 0.3:
                continue
            common = {
                "image_id": image.id,
                "category_id": annotation["category_id"] if random.random() < 0.8 else truth.categories[0].id,
                "score": random.random(),
            }
            moved = np.array(annotation["bbox"]) + random.normal(0, 3, 4)
            mask = to_mask(annotation["segmentation"], (image.height, image.width))
            mask = np.roll(mask, random.integers(-2, 3, 2), (0, 1))
            entries["box"].append(common | {"bbox": [*moved[:2].tolist(), *np.maximum(moved[2:], 1).tolist()]})
            entries["mask"].append(common | {"segmentation": to_rle(mask)})
        found.add(image.id, entries)
    return found


def oracle(truth: CocoAnnotations, found: Collected, kind: str, categories: list[int] | None = None) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO(truth.path)
        detections = data.loadRes(json.loads(json.dumps(found.of_kind(kind))))
        run = COCOeval(data, detections, {"box": "bbox", "mask": "segm"}[kind])
        run.params.catIds = categories or run.params.catIds
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats.tolist()


def same(scores: dict[str, float], expected: list[float]) -> None:
    np.testing.assert_allclose(list(scores.values())[:12], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["box", "mask"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_twelve_numbers_are_pycocotools(composed: Path, kind: str, seed: int) -> None:
    truth = annotations(composed)
    found = imagined(truth, seed)
    scores = score(truth, found, [kind])
    assert list(scores)[:12] == [f"{kind}_{name}" for name in NAMES]
    same(scores, oracle(truth, found, kind))
    assert 0.05 < scores[f"{kind}_ap50"] < 0.95
    assert scores == score(truth, found, [kind])


def test_perfect_detections_score_1_and_none_score_0(composed: Path) -> None:
    truth = annotations(composed)
    found = Collected()
    for index, image in enumerate(truth.images):
        objects = [annotation for annotation in truth.objects(index) if not annotation["iscrowd"]]
        common = [
            {"image_id": image.id, "category_id": annotation["category_id"], "score": 0.9} for annotation in objects
        ]
        boxes = [entry | {"bbox": annotation["bbox"]} for entry, annotation in zip(common, objects, strict=True)]
        masks = [
            entry | {"segmentation": annotation["segmentation"]}
            for entry, annotation in zip(common, objects, strict=True)
        ]
        masks = [
            entry | {"segmentation": to_rle(to_mask(entry["segmentation"], (image.height, image.width)))}
            for entry in masks
        ]
        found.add(image.id, {"box": boxes, "mask": masks})
    scores = score(truth, found, ["box", "mask"])
    assert scores["box_ap"] == scores["mask_ap"] == pytest.approx(1)
    assert score(truth, Collected(), ["box"])["box_ap"] == 0


def test_an_image_that_comes_twice_counts_once(composed: Path) -> None:
    truth = annotations(composed)
    once, twice = imagined(truth), imagined(truth)
    for image, entries in list(twice.by_image.items()):
        twice.add(image, entries)
    for kind in ("box", "mask"):
        assert twice.of_kind(kind) == once.of_kind(kind) != []


def read(folder: Path) -> dict:
    return json.loads((folder / "annotations/instances_train2017.json").read_text())


def changed(folder: Path, path: Path, change: dict[int, dict]) -> CocoAnnotations:
    """The composed annotations with some entries changed, written to `path`."""
    content = read(folder)
    for number, entries in change.items():
        content["annotations"][number] |= entries
    path.write_text(json.dumps(content))
    return read_annotations(path, folder / "train2017", True)


def test_an_annotation_may_have_the_id_0(composed: Path, tmp_path: Path) -> None:
    """COCO's own evaluation would count what matches it as wrong."""
    expected = score(annotations(composed), imagined(annotations(composed)), ["box"])
    for number in (0, -1):
        truth = changed(composed, tmp_path / "changed.json", {n: {"id": number} for n in (2,)})
        assert score(truth, imagined(truth), ["box"]) == expected


def test_boxes_beyond_the_image_count_as_pycocotools_counts_them(composed: Path, tmp_path: Path) -> None:
    """Such as rounding makes; a detection that is as far beyond it is right."""
    plain = annotations(composed)
    index = next(index for index in range(len(plain.images)) if plain.objects(index))
    image, number = plain.images[index], 0
    large = [-0.9, -0.9, image.width + 1.8, 8.0]
    truth = changed(composed, tmp_path / "changed.json", {number: {"bbox": large, "image_id": image.id}})
    found = Collected()
    entry = {"image_id": image.id, "score": 0.9, "bbox": [-0.9, -0.9, image.width + 1.8, 7.65]}
    entries = [entry | {"category_id": category.id} for category in truth.categories]
    found.add(image.id, {"box": entries})
    scores = score(truth, found, ["box"])
    same(scores, oracle(truth, found, "box"))


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_categories_are_scored_as_pycocotools_scores_each_alone(composed: Path, kind: str) -> None:
    truth = annotations(composed)
    found = imagined(truth)
    scores = score(truth, found, [kind])
    for category in truth.categories:
        alone = oracle(truth, found, kind, [category.id])[0]
        assert scores[f"{kind}_ap/{category.name}"] == pytest.approx(alone, abs=1e-12) and alone > 0


def test_boxes_without_an_area_count_as_pycocotools_counts_them(composed: Path, tmp_path: Path) -> None:
    """They are there to be found, though none can: leaving them out made recall larger."""
    number = next(n for n, entry in enumerate(read(composed)["annotations"]) if not entry["iscrowd"])
    thin = {number: {"bbox": [5.0, 5.0, 0.0, 9.0], "area": 0}}
    truth = changed(composed, tmp_path / "changed.json", thin)
    assert truth.thin == 1
    found = imagined(annotations(composed))
    for kind in ("box", "mask"):
        same(score(truth, found, [kind]), oracle(truth, found, kind))
    content = read(composed)
    content["annotations"].pop(number)
    path = tmp_path / "without.json"
    path.write_text(json.dumps(content))
    without = read_annotations(path, composed / "train2017", True)
    assert score(truth, found, ["box"])["box_ar100"] < score(without, found, ["box"])["box_ar100"]


def test_of_each_image_and_category_a_hundred_detections_count(composed: Path) -> None:
    """COCO's limit is no limit of an image: 300 detections, as SMCA-DETR gives, are scored beyond the first 100."""
    truth, random = annotations(composed), np.random.default_rng(2)
    found, best = Collected(), Collected()
    for index, image in enumerate(truth.images):
        entries = []
        for entry in truth.objects(index):
            moved = (np.array(entry["bbox"]) + random.normal(0, 1, 4)).clip(1)
            entries.append({"category_id": entry["category_id"], "score": 0.01 + 0.05 * random.random(), "bbox": moved})
        for _ in range(150):
            wrong = {"category_id": truth.categories[0].id, "score": 0.1 + random.random()}
            entries.append(wrong | {"bbox": random.uniform(1, 20, 4)})
        entries = [entry | {"image_id": image.id, "bbox": entry["bbox"].tolist()} for entry in entries]
        found.add(image.id, {"box": entries})
        best.add(image.id, {"box": sorted(entries, key=lambda entry: -entry["score"])[:100]})
    scores = score(truth, found, ["box"])
    same(scores, oracle(truth, found, "box"))
    assert scores["box_ar100"] > 0.4 > 0.1 > score(truth, best, ["box"])["box_ar100"]


def test_images_that_could_not_be_read_count_nowhere_and_ids_may_be_texts(composed: Path, tmp_path: Path) -> None:
    content = read(composed)
    truth = annotations(composed)
    found = imagined(truth)
    left_out = next(n for n, image in enumerate(truth.images) if image.id in found.by_image and truth.objects(n))
    number = truth.images[left_out].id
    content["images"] = [image for image in content["images"] if image["id"] != number]
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] != number]
    path = tmp_path / "fewer.json"
    path.write_text(json.dumps(content))
    fewer = read_annotations(path, composed / "train2017", True)
    found.by_image.pop(number)
    expected = score(fewer, found, ["box"])
    assert score(truth, found, ["box"]) != expected
    found.unreadable = {left_out}
    assert score(truth, found, ["box"]) == expected

    for entry in content["images"]:
        entry["id"] = f"{entry['id']:09d}"
    for entry in content["annotations"]:
        entry["image_id"] = f"{entry['image_id']:09d}"
    path.write_text(json.dumps(content))
    texts = Collected()
    for image, entries in found.by_image.items():
        new = f"{image:09d}"
        texts.add(new, {kind: [entry | {"image_id": new} for entry in some] for kind, some in entries.items()})
    assert score(read_annotations(path, composed / "train2017", True), texts, ["box"]) == expected


def test_masks_are_pasted_as_boxes_say_in_the_files_pixels(composed: Path) -> None:
    found = {
        "boxes": torch.tensor([[10.0, 20.0, 50.0, 40.0]] * 9),
        "scores": torch.linspace(0.9, 0.1, 9),
        "labels": torch.zeros(9, dtype=torch.int64),
        "masks": torch.ones(9, 1, 28, 28),
    }
    placed = in_file_pixels(found, (60, 80), (120, 240))
    assert placed["boxes"][0].tolist() == [30, 40, 150, 80]
    masks = list(masks_of(placed, (120, 240)))
    assert len(masks) == 9 and masks[8].shape == (120, 240)
    rows, columns = np.nonzero(masks[8])
    assert abs(rows.min() - 40) <= 2 and abs(columns.max() - 150) <= 3
    entries = results(placed, 5, (120, 240), [77])
    assert entries["box"][0] == {
        "image_id": 5,
        "category_id": 77,
        "score": pytest.approx(0.9),
        "bbox": [30, 40, 120, 40],
    }
    assert "bbox" not in entries["mask"][0]
    assert np.array_equal(to_mask(entries["mask"][3]["segmentation"], (120, 240)).astype(bool), masks[3])


def test_no_more_than_a_few_masks_are_laid_out_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    paste = evaluation.paste_masks_in_image
    monkeypatch.setattr(
        evaluation,
        "paste_masks_in_image",
        lambda masks, boxes, size: seen.append(len(masks)) or paste(masks, boxes, size),
    )
    found = {"boxes": torch.rand(100, 4).cumsum(1) * 9, "masks": torch.rand(100, 1, 28, 28)}
    assert sum(1 for _ in masks_of(found, (40, 40))) == 100 and max(seen) == 8


def _rank(rank: int, folder: Path, out: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{out / 'meet'}", rank=rank, world_size=2)
    truth = annotations(folder)
    mine = Collected()
    for number, (image, entries) in enumerate(imagined(truth).by_image.items()):
        if number % 3 == rank or number % 3 == 2:  # uneven, and some images in both processes
            mine.add(image, entries)
    (out / f"{rank}.json").write_text(json.dumps(score_together(truth, mine, ["box", "mask"])))
    dist.destroy_process_group()


def test_processes_score_what_one_would(composed: Path, tmp_path: Path) -> None:
    processes.spawn(_rank, (composed, tmp_path), nprocs=2)
    truth = annotations(composed)
    expected = score(truth, imagined(truth), ["box", "mask"])
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == expected
