"""One command measures a device: speed, precision, memory."""

import csv
import json
from pathlib import Path

import pytest
import torch

from tools import device
from tools.precision import precision


def test_every_part_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "SIZES", ((64, 64), (96, 96)))
    monkeypatch.setattr(device, "OURS", ("container_light_tiny",))
    words = ["--models", "container_light_tiny", "--batch", "2", "--size", "64", "--largest", "64"]
    monkeypatch.setattr(device.bench, "bench", lambda *arguments: ([], 1.0))
    monkeypatch.setattr(device.bench, "write", lambda folder, rows, about: None)
    monkeypatch.setattr("tools.precision.VARIANTS", ("plain", "fused"))
    device.main([*words, "--device", "cpu", "--out", str(tmp_path)])
    (folder,) = tmp_path.iterdir()
    parts = ("precision", "memory", "kernels")
    written = {f"{part}.{ending}" for part in parts for ending in ("csv", "json")} | {"memory.png"}
    assert {path.name for path in folder.iterdir()} == written
    about = json.loads((folder / "memory.json").read_text())
    assert about["command"].startswith("python -m tools.device --models container_light_tiny")
    rows = list(csv.DictReader((folder / "precision.csv").open()))
    assert [(row["variant"], row["precision"]) for row in rows][:2] == [("plain", "fp32"), ("fused", "fp32")]


def test_errors_are_those_of_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.precision.VARIANTS", ("plain", "fused"))
    rows = precision(["container_light_tiny"], torch.device("cpu"), 64, ("fp32", "bf16"))
    error = {(row.variant, row.precision): row.relative_error for row in rows}
    for variant in ("plain", "fused"):
        assert 1e-9 < error[variant, "fp32"] < 1e-5  # type: ignore[operator]
        assert 1e-4 < error[variant, "bf16"] < 0.1  # type: ignore[operator]
