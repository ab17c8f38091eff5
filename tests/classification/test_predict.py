"""`contagg predict` on a small network that was written as a run writes it."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_network import CLASSES, OPTIONS, PREPARED, expected, fail, run

from contagg.checkpoints.weights import load_model, read_weights, save_weights
from contagg.data.decode import read_image
from contagg.models import create


def test_files_are_read_with_the_bit_depth_of_training(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ramp = np.linspace(0, 4095, 40 * 50).astype(np.uint16).reshape(40, 50)
    Image.fromarray(ramp).save(tmp_path / "camera.png")
    state, metadata = read_weights(checkpoint)
    said = {}
    for depth in (None, 12):
        metadata["preprocessing"]["bit_depth"] = depth
        save_weights(checkpoint, state, metadata)
        arguments = ("predict", str(checkpoint), str(tmp_path / "camera.png"), "--output", "json", "--top-k", "1")
        said[depth] = json.loads(run(capsys, *arguments))[0]["classes"][0]["probability"]
        image = read_image(tmp_path / "camera.png", "x", bit_depth=depth)
        model, _ = load_model(checkpoint)
        with torch.inference_mode():
            wanted = model(PREPARED.evaluation()(image)[None]).softmax(1).max().item()
        assert abs(said[depth] - wanted) < 1e-5
    assert abs(said[None] - said[12]) > 1e-4
    metadata["preprocessing"]["bit_depth"] = 99
    save_weights(checkpoint, state, metadata)
    assert "does not say how images" in fail(capsys, "predict", str(checkpoint), str(tmp_path / "camera.png"))


def test_json_table_and_csv_say_the_same(
    checkpoint: Path, image_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = image_folder(train=3, val=1)
    images = ["--batch-size", "2", str(folder / "train")]
    found = json.loads(run(capsys, "predict", str(checkpoint), *images, "--output", "json", "--top-k", "2"))
    assert len(found) == 6
    for row in found:
        probabilities = expected(checkpoint, Path(row["image"]))
        top = probabilities.topk(2)
        assert [entry["class"] for entry in row["classes"]] == [CLASSES[index] for index in top.indices]
        assert [entry["probability"] for entry in row["classes"]] == pytest.approx(top.values.tolist(), abs=1e-5)
    table = run(capsys, "predict", str(checkpoint.parents[1]), *images, "--top-k", "1").splitlines()
    lines = csv.DictReader(io.StringIO(run(capsys, "predict", str(checkpoint), *images, "--output", "csv")))
    first = [row for row in lines if row["rank"] == "1"]
    for line, row, entry in zip(table, found, first, strict=True):
        best = row["classes"][0]
        assert line.split()[-3:] == [best["class"], f"{100 * best['probability']:.1f}", "%"]
        assert (entry["image"], entry["class"]) == (row["image"], best["class"])


def test_an_unreadable_image_is_named_and_left_out(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    Image.new("L", (40, 30), 99).save(tmp_path / "grey.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "grey.png").read_bytes()[:50])
    paths = [str(tmp_path / name) for name in ("broken.png", "grey.png")]
    found = json.loads(run(capsys, "predict", str(checkpoint), *paths, "--output", "json"))
    assert [row["image"] for row in found] == [paths[1]]
    assert len(found[0]["classes"]) == 3
    assert "broken.png" in caplog.text
    assert "none of 1 image can be read" in fail(capsys, "predict", str(checkpoint), paths[0])


def test_what_is_not_there(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert "there is no image or folder nowhere" in fail(capsys, "predict", str(checkpoint), "nowhere")
    assert "has no images" in fail(capsys, "predict", str(checkpoint), str(tmp_path / "empty"))
    assert "no weights at" in fail(capsys, "predict", "nothing.safetensors", str(checkpoint))
    assert "--device cuda:77 cannot be used" in fail(
        capsys, "predict", str(checkpoint), str(checkpoint), "--device", "cuda:77"
    )


def test_weights_that_do_not_say_how_images_are_prepared(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = create("container_light_tiny", **OPTIONS)
    metadata = {"model": {"name": "container_light_tiny", "options": OPTIONS}}
    save_weights(tmp_path / "bare.safetensors", model.state_dict(), metadata)
    printed = fail(capsys, "predict", str(tmp_path / "bare.safetensors"), str(checkpoint))
    assert "does not say how images are prepared" in printed


def test_answers_that_are_no_numbers_are_no_scores(
    checkpoint: Path, image_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    state, metadata = read_weights(checkpoint)
    state["head.fc.bias"][1] = float("nan")
    save_weights(checkpoint, state, metadata)
    root = image_folder(classes=tuple(CLASSES), train=1, val=1)
    said = "head.fc.bias is not finite: 1 of 3 numbers are NaN or infinite"
    assert said in fail(capsys, "validate", str(checkpoint), "--data.root", str(root))
    assert said in fail(capsys, "predict", str(checkpoint), str(root))
