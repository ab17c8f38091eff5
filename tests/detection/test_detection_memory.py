import csv
import json
from pathlib import Path

import pytest

from contagg.cli import main
from contagg.detection.memory import in_its_own_process


def test_a_row_a_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--works", "training", "--height", "64", "--width", "91", "--out", str(tmp_path)]
    main(["bench", "memory", "container_light_tiny", "--detector", "mask_rcnn", *words])
    (row,) = csv.DictReader((tmp_path / "memory.csv").open())
    assert (row["backbone"], row["work"], row["height"], row["width"]) == (
        "container_light_tiny",
        "training",
        "64",
        "91",
    )
    assert 100 < float(row["before_megabytes"]) <= float(row["peak_megabytes"]) and float(row["seconds"]) > 0
    assert json.loads((tmp_path / "memory.json").read_text())["commit"]
    assert "training" in capsys.readouterr().out


def test_attention_within_a_padded_batch_forms_no_matrix() -> None:
    """At this size A of the first stage alone is 1.7 GB; padding to 512 puts a mask on the keys."""
    row = in_its_own_process("retinanet", "container_tiny", "inference", (577, 569), threads=1)
    assert row.peak_megabytes - row.before_megabytes < 800
