import argparse
import io
import json
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from composed import COMPOSITION, SPLITS
from PIL import Image
from pycocotools.coco import COCO

from contagg.errors import UserError
from tools import compose_coco, scenes
from tools.compose_coco import CATEGORY_IDS, Composition, annotate, draw, write_split
from tools.sprites import GARMENTS, load_sprites


def read(folder: Path, split: str) -> COCO:
    with redirect_stdout(io.StringIO()):
        return COCO(folder / "annotations" / f"instances_{split}2017.json")


def test_pycocotools_reads_what_was_drawn(composed: Path) -> None:
    """Masks, boxes and areas of the JSON are those of the scene, pixel by pixel."""
    data = read(composed, "train")
    drawn = 0
    for index in range(SPLITS["train"]):
        scene = draw(COMPOSITION, "train", index)
        number = compose_coco.image_id("train", index)
        entries = data.loadAnns(data.getAnnIds(imgIds=[number]))
        assert len(entries) == len(scene.instances)
        for entry, instance in zip(entries, scene.instances, strict=True):
            assert np.array_equal(data.annToMask(entry).astype(bool), instance.visible)
            rows, columns = np.nonzero(instance.visible)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert entry["bbox"] == box and entry["area"] == instance.visible.sum()
            assert entry["category_id"] == CATEGORY_IDS[instance.label] and entry["iscrowd"] == instance.is_crowd
        drawn += len(entries)
        for one in range(len(scene.instances)):
            for other in range(one):
                assert not (scene.instances[one].visible & scene.instances[other].visible).any()
    assert drawn > 50


def test_it_has_what_coco_has() -> None:
    """Crowds, images without objects or colour, all shapes, objects cut off and hidden, polygons and run lengths."""
    found = [draw(COMPOSITION, "train", index) for index in range(150)]
    instances = [instance for scene in found for instance in scene.instances]
    assert any(instance.is_crowd for instance in instances)
    assert any(not scene.instances for scene in found)
    assert any(scene.image.ndim == 2 for scene in found)
    assert {scene.image.shape[:2] for scene in found} == {(96, 96), (72, 96), (96, 72)}
    assert any(instance.visible.sum() < 0.8 * instance.whole for instance in instances)
    assert all(instance.visible.sum() >= scenes._LEAST_PIXELS for instance in instances)
    kinds = {type(annotate(instance, prefer_polygons=True)["segmentation"]) for instance in instances}
    assert kinds == {list, dict}


def test_images_are_the_same_at_any_number_of_processes(tmp_path: Path) -> None:
    contents = []
    for workers in (0, 2):
        folder = tmp_path / str(workers)
        write_split(COMPOSITION, folder, "val", 7, workers)
        contents.append({path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()})
    assert contents[0] == contents[1] and len(contents[0]) == 8
    other = Composition("digits", 96, 4, seed=6)
    assert not np.array_equal(draw(other, "val", 0).image, draw(COMPOSITION, "val", 0).image)


def test_the_splits_share_no_sprite_and_no_background(monkeypatch: pytest.MonkeyPatch) -> None:
    for label in range(4):
        train, val = (load_sprites("digits", split, 4).by_class[label] for split in ("train", "val"))
        assert not {image.tobytes() for image in train} & {image.tobytes() for image in val}
    numbered = np.arange(50 * 80, dtype=np.float32).reshape(50, 80, 1).repeat(3, 2)
    columns: dict[str, set[int]] = {"train": set(), "val": set()}
    monkeypatch.setattr(scenes, "_photographs", lambda: [numbered])

    class Part:
        """Sees which pixels are taken."""

        def __init__(self, part: np.ndarray, split: str) -> None:
            columns[split] |= set((part[:, :, 0].astype(int) % 80).ravel().tolist())

    for split in columns:
        monkeypatch.setattr(
            scenes.Image,
            "fromarray",
            lambda part, split=split: Part(part, split) and Image.new("RGB", part.shape[1::-1]),
        )
        for seed in range(40):
            scenes._background(split, (40, 30), np.random.default_rng(seed))
    assert columns["train"] and columns["val"] and not columns["train"] & columns["val"]


def test_objects_are_as_few_and_as_large_as_asked() -> None:
    composition = Composition("digits", 96, 4, seed=6, objects=2, smallest=0.5)
    scenes = [draw(composition, "train", index) for index in range(60)]
    instances = [instance for scene in scenes for instance in scene.instances if not instance.is_crowd]
    assert max(len(scene.instances) for scene in scenes) == 2
    # A side of 36 pixels at least; turned and stretched a digit fills a fifth of its square or more.
    assert min(instance.whole for instance in instances) > 0.2 * 36**2


def options(folder: Path, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    compose_coco.arguments(parser)
    return parser.parse_args([str(folder), "--source", "digits", "--workers", "0", *words])


def test_the_command_writes_crops_and_refuses_a_full_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = options(tmp_path, "--images", "4", "--validation", "3", "--size", "64", "--classes", "2", "--crops")
    compose_coco.run(words)
    assert "4 images" in capsys.readouterr().out
    content = json.loads((tmp_path / "annotations/instances_val2017.json").read_text())
    names = {category["name"] for category in content["categories"]}
    assert {path.name for path in (tmp_path / "crops/val").iterdir()} == names == {"0", "1"}
    crops = list((tmp_path / "crops/val").rglob("*.jpg"))
    assert len(crops) == sum(not entry["iscrowd"] for entry in content["annotations"])
    with pytest.raises(UserError, match="holds a data set already"):
        compose_coco.run(words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--images", "0"], "--images must be at least 1, not 0"),
        (["--size", "20"], "--size must be at least 48"),
        (["--classes", "11"], "between 1 and 10, not 11"),
        (["--objects", "0"], "--objects must be at least 1, not 0"),
        (["--smallest", "0.65"], "--smallest must be at least 0.05 and below 0.65, not 0.65"),
    ],
)
def test_wrong_numbers_are_named(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        compose_coco.run(options(tmp_path, *words))


def test_missing_garments_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dataset-fashion-mnist, or use --source digits"):
        load_sprites("garments", "train", 4, str(tmp_path))


@pytest.mark.skipif(not Path(GARMENTS).is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_garments() -> None:
    scene = draw(Composition("garments", 128, 10, 0), "train", 3)
    assert scene.image.shape[:2] in {(128, 128), (96, 128), (128, 96)} and scene.instances
