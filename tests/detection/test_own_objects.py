"""docs/own-data.md: from another tool's annotations to a trained detector, with what the package holds."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from contagg.cli import main

SMALL = {
    "model.detector": "mask_rcnn",
    "model.pyramid_channels": "8",
    "model.options": '{"depths": [1, 1, 1, 1]}',
    "augmentation.short_sides": "[64]",
    "augmentation.long_side": "64",
    "optimization.epochs": "1",
    "optimization.batch_size": "4",
    "run.accelerator": "cpu",
    "run.workers": "0",
    "run.loggers": "[csv]",
}


def discs(root: Path) -> None:
    """Ten images with a disc each, as a YOLO polygon; two are for validation."""
    generator = np.random.default_rng(0)
    for number in range(10):
        split = "train" if number < 8 else "val"
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(generator.integers(0, 80, (48, 64, 3), dtype=np.uint8))
        x, y = generator.uniform(12, 50), generator.uniform(12, 36)
        ImageDraw.Draw(image).ellipse((x - 10, y - 10, x + 10, y + 10), fill="white")
        image.save(root / "images" / split / f"{number}.png")
        turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        corners = np.stack([(x + 10 * np.cos(turns)) / 64, (y + 10 * np.sin(turns)) / 48], 1).clip(0, 1)
        line = " ".join(f"{value:.6f}" for value in corners.ravel())
        (root / "labels" / split / f"{number}.txt").write_text(f"0 {line}\n")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [disc]\n")


def test_from_yolo_to_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    discs(tmp_path / "yolo")
    data, run = tmp_path / "discs", tmp_path / "run"
    main(["data", "from-yolo", str(tmp_path / "yolo"), "-o", str(data)])
    assert f"contagg fit -c own-objects --data.root {data}" in capsys.readouterr().out
    words = [word for key, value in SMALL.items() for word in (f"--{key}", value)]
    main(["fit", "-c", "own-objects", "--data.root", str(data), "--run.folder", str(run), *words])
    (row,) = csv.DictReader((run / "metrics.csv").open())
    assert {"box_ap", "mask_ap", "box_ap/disc"} <= row.keys()
    capsys.readouterr()

    image = str(tmp_path / "yolo/images/val/9.png")
    main(["predict", str(run), image, "--score", "0", "--folder", str(tmp_path / "found")])
    boxes, masks = (json.loads((tmp_path / f"found/{kind}_results.json").read_text()) for kind in ("box", "mask"))
    assert len(boxes) == len(masks) and all("bbox" not in entry and "segmentation" in entry for entry in masks)
    for x, y, width, height in (entry["bbox"] for entry in boxes):  # no box leaves its image
        assert x >= 0 and y >= 0 and x + width <= 64 + 1e-3 and y + height <= 48 + 1e-3
    capsys.readouterr()
    main(["predict", str(run), image, "--score", "0", "--output", "csv"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == len(boxes) and all(row["class"] == "disc" for row in rows)
